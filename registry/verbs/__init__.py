"""The methods of Registry, by what they are about."""
