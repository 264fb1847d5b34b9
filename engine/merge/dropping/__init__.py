"""Which elements of ΔW a sparse method keeps: magnitudes above an exact threshold, or random masks."""
