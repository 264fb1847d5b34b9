"""Operations of the LoRA engine on tensors: a plain PyTorch reference for each, faster twins beside it."""
