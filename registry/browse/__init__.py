"""Pages of versions, and all that is told of one."""
