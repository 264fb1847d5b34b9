"""Tiny models of every family, and configurations drawn for them from a seed: what the differential suite runs."""

from __future__ import annotations

import random
import warnings
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model

from tests.engine.model.live import llama

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

ROWS = 3
IDS = torch.arange(ROWS * 6).reshape(ROWS, 6)


@dataclass(frozen=True)
class Family:
    """A model, its inputs, and the names that a configuration may choose from, by the kind of their modules."""

    make: Callable[[], torch.nn.Module]
    inputs: Mapping[str, Any]
    linear: tuple[str, ...]
    tables: tuple[str, ...] = ()
    convs: tuple[str, ...] = ()
    saved: tuple[str, ...] = ()
    tokens: bool = True
    """Whether PEFT can train tokens of the first table; not where T5 ties it to a head it cannot wrap."""


@dataclass(frozen=True)
class Draw:
    """One configuration of the suite: the settings of two adapters, and whether they run alone, together or mixed."""

    family: str
    number: int
    mode: str
    settings: tuple[dict[str, Any], dict[str, Any]]
    told: str = field(default="")

    @property
    def name(self) -> str:
        return f"{self.family}-{self.number:02d}-{self.mode}-{self.told}"


def _gpt2():
    config = transformers.GPT2Config(vocab_size=64, n_embd=24, n_layer=2, n_head=3, n_positions=16)
    return transformers.GPT2LMHeadModel(config)


def _opt():
    config = transformers.OPTConfig(
        vocab_size=64,
        hidden_size=24,
        ffn_dim=32,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=16,
        word_embed_proj_dim=24,
    )
    return transformers.OPTForCausalLM(config)


def _bert():
    config = transformers.BertConfig(
        vocab_size=64,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=16,
        num_labels=3,
    )
    return transformers.BertForSequenceClassification(config)


def _t5():
    config = transformers.T5Config(
        vocab_size=64, d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=3, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config)


def _vit():
    config = transformers.ViTConfig(
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=3,
        image_size=8,
        patch_size=4,
        num_labels=3,
    )
    return transformers.ViTForImageClassification(config)


def _whisper():
    config = transformers.WhisperConfig(
        vocab_size=64,
        d_model=24,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=3,
        decoder_attention_heads=3,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_mel_bins=8,
        max_source_positions=8,
        max_target_positions=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    return transformers.WhisperForConditionalGeneration(config)


def _unet():
    from diffusers import UNet2DConditionModel

    blocks = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }
    return UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        cross_attention_dim=12,
        attention_head_dim=4,
        norm_num_groups=4,
        **blocks,
    )


def _numbers(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(9))


FAMILIES = {
    "llama": Family(llama, {"input_ids": IDS}, ("q_proj", "v_proj", "o_proj", "down_proj", "layers.1.mlp.up_proj"), ("embed_tokens",), (), ("lm_head", "norm", "layers.0.mlp")),
    "gpt2": Family(_gpt2, {"input_ids": IDS}, ("c_attn", "c_fc", "mlp.c_proj"), ("wte",), (), ("ln_f", "h.0.attn")),
    "opt": Family(_opt, {"input_ids": IDS}, ("q_proj", "k_proj", "fc1", "fc2"), ("embed_tokens",), (), ("final_layer_norm",)),
    "bert": Family(_bert, {"input_ids": IDS}, ("query", "value", "output.dense"), ("word_embeddings",), (), ("classifier", "pooler")),
    "t5": Family(_t5, {"input_ids": IDS, "decoder_input_ids": IDS[:, :4]}, ("q", "v", "wi", "wo"), ("shared",), (), ("lm_head", "final_layer_norm"), tokens=False),
    "vit": Family(_vit, {"pixel_values": _numbers(ROWS, 3, 8, 8)}, ("query", "value", "fc1", "q_proj", "output.dense"), (), ("projection",), ("classifier",)),
    "whisper": Family(_whisper, {"input_features": _numbers(ROWS, 8, 16), "decoder_input_ids": IDS[:, :4]}, ("q_proj", "v_proj", "fc1"), ("embed_tokens",), ("conv1", "conv2"), ("layer_norm",)),
    "unet": Family(_unet, {"sample": _numbers(ROWS, 4, 8, 8), "timestep": torch.tensor([1, 5, 9]), "encoder_hidden_states": _numbers(ROWS, 5, 12)}, ("to_q", "to_v", "to_out.0", "time_emb_proj", "linear_1"), (), ("conv1", "conv2", "conv_in"), ("conv_out", "norm1")),
}  # fmt: skip


@cache
def base(family: str) -> torch.nn.Module:
    """The family's model in eval mode, the same object for every test: copy it before changing anything."""
    torch.manual_seed(7)
    model = FAMILIES[family].make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1 and parameter.std() < 0.05:  # adapters would hardly be seen in the results
                parameter.mul_(8)
    return model


def draws(per_family: int) -> list[Draw]:
    """The suite: as many configurations of each family, the same on every machine."""
    return [_draw(family, number) for family in FAMILIES for number in range(per_family)]


def _draw(family: str, number: int) -> Draw:
    chance = random.Random(f"{family} {number}")
    mode = ("single", "mixed", "several")[number % 3]
    first = _settings(FAMILIES[family], chance, mode)
    second = _settings(FAMILIES[family], chance, mode)
    told = "-".join(sorted(_features(first) | (_features(second) if mode != "single" else set()))) or "plain"
    return Draw(family, number, mode, (first, second), told)


def _settings(family: Family, chance: random.Random, mode: str) -> dict[str, Any]:
    names = [name for name in family.linear if _present(family, name)]
    targets = chance.sample(names, chance.randint(1, min(3, len(names))))
    kind = chance.choice(("linear", "linear", "tables", "convs"))
    others = [name for name in getattr(family, kind) if kind != "linear"]
    targets += chance.sample(others, min(1, len(others)))
    rank = chance.choice((1, 2, 3, 5))
    settings = {
        "r": rank,
        "lora_alpha": chance.choice((1, 3, 6.5)),
        "use_rslora": chance.random() < 0.3,
        "target_modules": targets,
    }
    if chance.random() < 0.4:
        settings |= {"rank_pattern": {targets[0]: rank + 2}, "alpha_pattern": {targets[-1]: 2}}
    variant = chance.choice(("plain", "plain", "dora", "lora_bias", "bias"))
    if variant == "dora":
        settings["use_dora"] = True
    elif variant == "lora_bias" and not others:
        settings["lora_bias"] = True
    elif variant == "bias" and mode != "several" and not others:
        settings["bias"] = chance.choice(("all", "lora_only"))
    free = [
        name
        for name in family.saved
        if mode != "several" and not any(name in target or target in name for target in targets)
    ]
    if free and chance.random() < 0.4:
        settings["modules_to_save"] = [chance.choice(free)]
    if family.tables and family.tokens and kind != "tables" and mode != "several" and chance.random() < 0.3:
        settings["trainable_token_indices"] = {family.tables[0]: chance.sample(range(18), 4)}
    return settings


def _present(family: Family, name: str) -> bool:
    model = base(next(key for key, value in FAMILIES.items() if value is family))
    return any(path == name or path.endswith(f".{name}") for path, _ in model.named_modules())


def _features(settings: Mapping[str, Any]) -> set[str]:
    names = {
        "use_dora": "dora",
        "lora_bias": "lorabias",
        "bias": "bias",
        "modules_to_save": "saved",
        "trainable_token_indices": "tokens",
        "use_rslora": "rslora",
        "rank_pattern": "patterns",
    }
    found = {told for key, told in names.items() if settings.get(key)}
    kinds = {"tables": "table", "convs": "conv"}
    listed = {
        told
        for kind, told in kinds.items()
        if any(set(getattr(family, kind)) & set(settings["target_modules"]) for family in FAMILIES.values())
    }
    return found | listed


def peft_model(model: torch.nn.Module, settings: Mapping[str, Any], seed: int) -> PeftModel:
    """The model wrapped by PEFT, with every number of the adapter drawn anew. Changes the model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = get_peft_model(model, LoraConfig(**settings))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "magnitude" in name:
                parameter.mul_(0.7 + torch.rand(parameter.shape, generator=generator))
            elif parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return readable(wrapped)


def readable(wrapped: PeftModel) -> PeftModel:
    """In eval mode; Whisper's encoder asks its convolutions for their stride, which PEFT's wrapper does not have."""
    for module in wrapped.modules():
        inner = getattr(module, "base_layer", None)
        if hasattr(inner, "stride"):
            module.stride = inner.stride
    return wrapped.eval()


def saved(wrapped: PeftModel, folder: Path) -> Path:
    """The adapter's folder, written by PEFT."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped.save_pretrained(folder)
    return folder


def out(model: Callable[..., Any], family: str, **more: Any) -> torch.Tensor:
    """The model's main result for the family's inputs, (rows, …)."""
    with torch.inference_mode():
        result = model(**FAMILIES[family].inputs, **more)
    return (result.logits if hasattr(result, "logits") else result.sample).clone()
