"""What the result holds beside merged factors: its config, tensors carried whole, vectors."""
