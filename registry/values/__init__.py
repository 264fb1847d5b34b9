"""Small values and texts, parsed once at the edge: names, digests, JSON, progress."""
