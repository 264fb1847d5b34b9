"""A version and its names: recorded, found, labelled, deleted."""
