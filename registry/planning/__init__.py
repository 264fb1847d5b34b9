"""Questions about all versions at once: room on a server, what a change breaks."""
