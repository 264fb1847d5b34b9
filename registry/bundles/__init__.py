"""A part of a registry as one file."""
