"""The check-in rules: one table, each function with its subject."""
