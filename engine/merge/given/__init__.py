"""What a merge is given: its parents, their weights, options, and how many ranks to keep."""
