"""Upkeep: verify, fsck, doctor, backup."""
