"""Where a version comes from, as files, flags and the surroundings say it."""
