"""Which weights are packed, into which form, and what is left of the change."""
