"""Tensors in files: safetensors headers, bytes read and written, folders that are whole or not at all."""
