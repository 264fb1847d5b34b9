"""Checks: what is asked, of whom, what the rules say."""
