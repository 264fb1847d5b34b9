"""What a merge kept of its parents, and what the base will keep of the merge."""
