"""The smallest models of real architectures: two layers of width 32, with random weights."""

from transformers import LlamaConfig, LlamaForCausalLM

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def llama(vocab=64):
    return LlamaForCausalLM(LlamaConfig(**SIZES, vocab_size=vocab))
