"""Blobs in a bucket: its client, files there and back, whose it is, what it can do."""
