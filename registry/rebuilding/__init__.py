"""Versions and lineage made again from the blobs alone."""
