"""The name that PEFT gives a LoRA tensor, from one that wrappers, injected models and adapters' names have left."""

from __future__ import annotations

from engine.format.names.keys import PREFIX

# What torch.compile, DataParallel and FSDP put before and between the names of a model's modules.
_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_FACTORS = frozenset({"lora_A", "lora_B"})
_BARE = frozenset({"lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector", "lora_diag"})


def peft_name(name: str) -> str:
    """The name without wrappers' components, a repeated prefix and the adapter's name, and with `base_model.model.`."""
    parts = _parts(name)
    adapter = _adapter_in(parts)
    if adapter is not None:
        place = max(index for index, part in enumerate(parts) if part in _FACTORS or part in _BARE)
        del parts[place + 1]
        if parts[place] in _BARE:
            del parts[place + 1 :]
    plain = ".".join(parts)
    while plain.startswith(PREFIX + PREFIX):
        plain = plain.removeprefix(PREFIX)
    return plain if plain.startswith(PREFIX) else PREFIX + plain


def adapter_name(name: str) -> str | None:
    """The adapter's name in a tensor's, where it still has one (`….lora_A.default.weight`)."""
    return _adapter_in(_parts(name))


def _parts(name: str) -> list[str]:
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    return parts[1:] if parts[:2] == ["module", "base_model"] else parts


def _adapter_in(parts: list[str]) -> str | None:
    for place, part in enumerate(parts[:-1]):
        behind = parts[place + 1 :]
        if part in _FACTORS and len(behind) == 2 and behind[1] in ("weight", "bias"):
            return behind[0]
        if part in _BARE and behind not in (["weight"], []) and len(behind) <= 2:
            return behind[0]
    return None
