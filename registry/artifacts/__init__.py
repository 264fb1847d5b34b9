"""Materialised artifacts: recipes, contents, places, and what the store keeps of them."""
