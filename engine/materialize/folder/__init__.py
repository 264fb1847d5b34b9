"""The result as a folder: its files, how it grows, how it is proven."""
