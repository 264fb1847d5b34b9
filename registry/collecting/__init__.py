"""Freeing what nothing needs, while others push."""
