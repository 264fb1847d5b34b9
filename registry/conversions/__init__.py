"""Adapters written anew: without pickles, or for a serving engine."""
