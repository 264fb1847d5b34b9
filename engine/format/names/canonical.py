"""One name per parameter, whatever saved it: without wrappers, without the model's prefix, without buffers.

Three sources spell the same weight differently: the bare model (`h.0.ln_1.weight`), the model with a head
(`transformer.h.0.ln_1.weight`) and wrappers around either (`base_model.model.…`, `module.…`, `…_orig_mod.…`).
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING

from engine.format.names.prefixes import MODEL_PREFIXES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_LEADING_WRAPPERS = ("base_model.model.", "module.")
# torch.compile, FSDP and activation checkpointing put themselves between a module and its parent, at any depth.
_INNER_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})

# Last components of tensors that are registered as buffers, never as parameters, by torch and by transformers.
_BUFFERS = """
    masked_bias inv_freq original_inv_freq position_ids token_type_ids num_batches_tracked running_mean running_var
    cos_cached sin_cached relative_position_index relative_coords_table bbox_image_position_ids num_patches
    final_logits_bias
"""

# Parameters that share the storage of an input embedding (or of another bias) when a model ties its weights: the keys
# of `_tied_weights_keys` in transformers 5.23.0, by suffix. Only dropped where the twin is there (see `tied_twins`).
_OUTPUTS = """
    lm_head.weight proj_out.weight embed_out.weight output_projection.weight vocab_projector.weight lm_loss.weight
    pred_layer.proj.weight generator_lm_head.weight lm_head.decoder.weight lm_head.decoder.bias lm_head.out_proj.weight
    head.decoder.weight decoder.weight decoder.bias head.weight output.weight codec_head
"""

# Encoder-decoders hold one embedding three times: `shared` and one copy in each half.
_COPIES = "encoder.embed_tokens.weight decoder.embed_tokens.weight text_decoder.embed_tokens.weight"

_BUFFER_NAMES = frozenset(_BUFFERS.split())
OUTPUT_NAMES = frozenset(_OUTPUTS.split())
_INPUT_COPIES = frozenset(_COPIES.split())
_NAMES_KEPT = 1 << 16
"""More than the names of a mixture with 128 experts in each of 48 layers and of an adapter on all of them."""


# Thousands of adapters have the same few hundred names.
@lru_cache(_NAMES_KEPT)
def canonical(path: str) -> str:
    """Give the module or parameter path without wrappers and leading model prefixes; names inside stay as they are."""
    kept = [part for part in unwrapped(path).split(".") if part not in _INNER_WRAPPERS]
    first = 0
    while first < len(kept) - 1 and kept[first] in MODEL_PREFIXES and not kept[first + 1].isdecimal():
        first += 1
    return ".".join(kept[first:])


@lru_cache(_NAMES_KEPT)
def unwrapped(path: str) -> str:
    """Take PEFT's and data-parallel wrappers off the front."""
    while True:
        for wrapper in _LEADING_WRAPPERS:
            if path.startswith(wrapper):
                path = path.removeprefix(wrapper)
                break
        else:
            return path


def canonical_names(paths: Iterable[str]) -> dict[str, str]:
    """Map each path to its canonical form; those that would share one keep their full path, so that none is lost."""
    paths = sorted(paths)
    names = {path: canonical(path) for path in paths}
    shared = Counter(names.values())
    return {path: name if shared[name] == 1 else path for path, name in names.items()}


def is_buffer(path: str, shape: tuple[int, ...]) -> bool:
    """Say whether a checkpoint's tensor is a stored buffer, which no parameter list of the model contains."""
    parts = path.split(".")
    if parts[-1] in _BUFFER_NAMES:
        return True
    # GPT-2, GPT-Neo and GPT-NeoX stored their causal mask as `attn.bias` (1, 1, context, context).
    return parts[-1] == "bias" and len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3]


def layout_parameters(shapes: Mapping[str, tuple[int, ...]], tied: Iterable[str] = ()) -> dict[str, tuple[int, ...]]:
    """Give canonical path → shape of the parameters among `shapes`, without those named in `tied`."""
    dropped = set(tied)
    kept = [path for path, shape in shapes.items() if path not in dropped and not is_buffer(path, shape)]
    names = canonical_names(kept)
    return {names[path]: shapes[path] for path in sorted(kept, key=names.__getitem__)}


def tied_twins(samples: Mapping[str, object]) -> frozenset[str]:
    """Name the stored copies of tied weights: a tied name whose content equals that of another tensor.

    `samples` maps a tensor's name to anything that compares equal for equal dtype, shape and content.
    """
    holders: dict[object, list[str]] = {}
    for path in sorted(samples):
        holders.setdefault(samples[path], []).append(path)
    return frozenset(twin for group in holders.values() if len(group) > 1 for twin in _twins(group))


def _twins(group: list[str]) -> list[str]:
    source = min(map(_tie_order, group))
    return [path for path in group if _tie_order(path) > source]


def is_tied_name(path: str) -> bool:
    """Say whether models usually share this parameter with an input embedding, so that checkpoints may leave it out."""
    return _tie_order(path) > 0


def _tie_order(path: str) -> int:
    """0 for a weight of its own, 1 for a copy of an input embedding, 2 for an output layer."""
    if ends_with_any(path, OUTPUT_NAMES):
        return 2
    return 1 if ends_with_any(path, _INPUT_COPIES) else 0


def ends_with_any(path: str, names: frozenset[str]) -> bool:
    """Say whether the path is one of `names` or ends with one, at a dot."""
    return f".{path}".endswith(_at_a_dot(names))


@lru_cache
def _at_a_dot(names: frozenset[str]) -> tuple[str, ...]:
    return tuple(f".{name}" for name in names)
