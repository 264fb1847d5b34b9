"""Adapters in a model's weights and out again, and as files."""
