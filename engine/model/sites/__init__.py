"""Modules whose forward adds what the slots say, and how they are put there and taken away."""
