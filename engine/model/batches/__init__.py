"""Which adapters are on: for a batch, a thread, a forward, a KV cache, compiled code."""
