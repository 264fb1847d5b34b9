"""A random Llama checkpoint of a given size with a rank-16 adapter on all its linear layers, both bfloat16."""

import json

HIDDEN, INNER, VOCABULARY, RANK = 4096, 11_008, 32_000, 16
LINEARS = {
    **{f"self_attn.{name}_proj": (HIDDEN, HIDDEN) for name in "qkvo"},
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}


def make(folder, gigabytes):
    """`folder`/base and `folder`/adapter; bytes of the base's weights and its number of layers."""
    import torch

    torch.manual_seed(0)
    ends = 2 * VOCABULARY * HIDDEN
    layer = sum(out * inner for out, inner in LINEARS.values())
    layers = max(1, round((gigabytes * 1e9 / 2 - ends) / layer))
    size = write_base(torch, folder / "base", layers)
    write_adapter(torch, folder / "adapter", layers)
    return size, layers


def write_base(torch, folder, layers):
    from safetensors.torch import save_file

    def random(*shape):
        return (torch.randn(*shape) * 0.02).bfloat16()

    def ones():
        return torch.ones(HIDDEN, dtype=torch.bfloat16)

    folder.mkdir(parents=True)
    weight_map, size = {}, 0
    for number in range(layers + 1):
        name = f"model-{number + 1:05d}-of-{layers + 1:05d}.safetensors"
        if number == layers:
            held = {
                "model.embed_tokens.weight": random(VOCABULARY, HIDDEN),
                "lm_head.weight": random(VOCABULARY, HIDDEN),
                "model.norm.weight": ones(),
            }
        else:
            stem = f"model.layers.{number}."
            held = {f"{stem}{module}.weight": random(*shape) for module, shape in LINEARS.items()}
            held |= {f"{stem}{norm}.weight": ones() for norm in ("input_layernorm", "post_attention_layernorm")}
        save_file(held, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(held, name)
        size += sum(tensor.numel() * 2 for tensor in held.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config(layers)))
    return size


def write_adapter(torch, folder, layers):
    from safetensors.torch import save_file

    folder.mkdir()
    factors = {}
    for number in range(layers):
        for module, (out, inner) in LINEARS.items():
            stem = f"base_model.model.model.layers.{number}.{module}"
            factors[f"{stem}.lora_A.weight"] = (torch.randn(RANK, inner) * 0.02).bfloat16()
            factors[f"{stem}.lora_B.weight"] = (torch.randn(out, RANK) * 0.02).bfloat16()
    save_file(factors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    targets = [module.rpartition(".")[2] for module in LINEARS]
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 32, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "synthetic"}))


def config(layers):
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": layers,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": VOCABULARY,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
