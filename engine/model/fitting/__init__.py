"""Does an adapter fit a live model, and what it puts on which module."""
