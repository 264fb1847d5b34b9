"""Blobs: what a store does, in a folder or in a bucket."""
