"""Where tensors lie in files, and what encodes them there."""
