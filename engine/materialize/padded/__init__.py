"""Adapters for hot swapping by PEFT and diffusers: one rank, one scaling, places for the same modules."""

from engine.materialize.padded.write import Padded, write_padded

__all__ = ["Padded", "write_padded"]
