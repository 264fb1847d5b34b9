"""Names of tensors and modules: taken apart, paired, explained, made canonical."""
