"""LoRA adapters as files and tensors: reading, checking, merging. Imports no torch until a tensor is needed."""
