"""Merges: what one is told, its parents, its repetition, its picture."""
