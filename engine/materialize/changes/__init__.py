"""What one adapter does to one stored tensor."""
