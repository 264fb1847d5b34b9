"""Versions on this machine: fetched, kept by digest, copied out, followed."""
