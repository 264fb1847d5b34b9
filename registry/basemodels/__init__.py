"""Base models: their rows, their files, their kin."""
