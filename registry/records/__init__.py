"""The record of a version, which outlives its rows."""
