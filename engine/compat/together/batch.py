"""Rules for one batch whose rows name different adapters: PEFT's `adapter_names`, after all were loaded side by side.

What peft 0.21.2 does in `tuners/lora/layer.py`, `lora/model.py` and `utils/other.py` decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.rule import Hit, listed
from engine.compat.together import siblings
from engine.compat.together.group import GroupRule, name_of, values_in_words
from engine.compat.together.hotswap import changing
from engine.format.names.keys import PREFIX, WRAPPER, parse_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engine.compat.together.group import Group
    from engine.format.facts import AdapterFacts


def magnitudes(group: Group) -> Iterator[Hit]:
    found = [name_of(facts) for facts, lora in group.loras() if lora.use_dora]
    if found:
        yield Hit(f"PEFT refuses rows that name a DoRA adapter: {listed(found)}", "use_dora")


def layers(group: Group) -> Iterator[Hit]:
    """Layers whose forward takes no names: attention with a projection of its own, and bare parameters."""
    for facts in group.adapters:
        for module in facts.modules:
            attention = module.name.endswith(f".{WRAPPER}.out_proj") and module.kind == "linear"
            if attention or module.kind == "parameter":
                what = "nn.MultiheadAttention" if attention else "a bare parameter"
                yield Hit(f"{name_of(facts)} adapts {module.name}, {what}, whose layer takes no names", module.name)


def copies(group: Group) -> Iterator[Hit]:
    """A module that one has a copy of: rows naming an adapter without one raise."""
    owned = {str(facts.path): _copied(facts) for facts in group.adapters}
    everything = {module for modules in owned.values() for module in modules}
    for module in sorted(everything):
        lacking = [name for name, modules in owned.items() if module not in modules]
        if lacking:
            yield Hit(
                f"module {module}: expected a full copy in all adapters or none, {listed(lacking)} has none", module
            )


def layers_of_copies(group: Group) -> Iterator[Hit]:
    """PEFT picks a copy by row for linear, embedding and convolution layers alone."""
    for facts in group.adapters:
        for module, names in _copied(facts).items():
            tensors = [facts.header.tensors[name] for name in names]
            inside = [name for name in names if parse_key(name).module != module]
            if inside or all(len(tensor.shape) < 2 for tensor in tensors):
                yield Hit(
                    f"{name_of(facts)}: the copy of {module} is no linear, embedding or convolution layer, and takes "
                    "no names",
                    (inside or names)[0],
                )


def _copied(facts: AdapterFacts) -> Mapping[str, list[str]]:
    """Tensors by the module that is copied: the one that modules_to_save names, with all that lies below it."""
    lora = facts.config.lora
    entries = (lora.modules_to_save if lora else None) or ()
    found: dict[str, list[str]] = {}
    for name, role in sorted(facts.others.items()):
        if role == "modules_to_save":
            module = parse_key(name).module
            parts = module.split(".")
            paths = [".".join(parts[: end + 1]) for end in range(len(parts))]
            owner = next((path for path in paths for entry in entries if path.endswith(entry)), module)
            found.setdefault(owner.removeprefix(PREFIX), []).append(name)
    return found


def biases(group: Group) -> Iterator[Hit]:
    found = [(facts, lora.bias) for facts, lora in group.loras() if lora.bias != "none"]
    if found:
        yield Hit(f"bias: PEFT loads one adapter that trains biases and no other: {values_in_words(found)}", "bias")


def replication(group: Group) -> Iterator[Hit]:
    """PEFT repeats the layers again for every adapter that asks for it, and the first one's copies are lost."""
    found = [name_of(facts) for facts, lora in group.loras() if lora.layer_replication]
    if found:
        yield Hit(
            f"layer_replication: expected none beside another adapter, found it in {listed(found)}", "layer_replication"
        )


def changed_base(group: Group) -> Iterator[Hit]:
    if _alike_kasa(group):
        return
    for facts, lora in group.loras():
        if (method := changing(lora)) is not None:
            fix = None if method == "kasa_config" else "adapters convert REF --for vllm --initial INITIAL"
            yield Hit(
                f"{name_of(facts)}: {method} changes the base when it is loaded, and so what the others compute",
                "kasa_config" if method == "kasa_config" else "init_lora_weights",
                fix,
            )


def _alike_kasa(group: Group) -> bool:
    """KaSA cuts the base by the adapter's rank, and a second cut of that rank changes nothing."""
    modules = {(one.name, one.rank) for facts in group.adapters for one in facts.modules}
    return all(lora.kasa_config is not None for _, lora in group.loras()) and len(modules) == len(
        {name for name, _ in modules}
    )


def parameters(group: Group) -> Iterator[Hit]:
    found = [(facts, tuple(sorted(lora.target_parameters or ()))) for facts, lora in group.loras()]
    if len({names for _, names in found if names}) > 1:
        yield Hit(f"target_parameters: expected one set of names, found {values_in_words(found)}", "target_parameters")


def tokens(group: Group) -> Iterator[Hit]:
    """Row indices of an embedding whose copy another adapter brings: PEFT wraps a module once."""
    rows = {
        parse_key(name).module for facts in group.adapters for name, role in facts.others.items() if role == "tokens"
    }
    for facts in group.adapters:
        for module in sorted(rows & (set(_copied(facts)) | {one.name for one in facts.modules})):
            yield Hit(f"{name_of(facts)} adapts or copies {module}, of which another adapter replaces rows", module)


RULES: tuple[GroupRule, ...] = (
    GroupRule("batch-alone", "error", "Fewer than two adapters were given.", siblings.too_few),
    GroupRule("batch-type", "error", "An adapter is no LoRA.", siblings.other_type),
    GroupRule("batch-base", "error", "The adapters are for different bases.", siblings.different_bases),
    GroupRule("batch-base-unnamed", "warning", "An adapter names no base.", siblings.unnamed_base),
    GroupRule("batch-replication", "error", "An adapter repeats layers.", replication),
    GroupRule(
        "batch-shape", "error", "A module's factors are for weights of different shapes.", siblings.different_shapes
    ),
    GroupRule("batch-dora", "error", "An adapter is DoRA.", magnitudes),
    GroupRule("batch-layer", "error", "A layer's forward takes no names.", layers),
    GroupRule("batch-copies", "error", "A module is copied in some adapters only.", copies),
    GroupRule("batch-copy-layer", "error", "A copied module is of a kind that takes no names.", layers_of_copies),
    GroupRule("batch-bias", "error", "An adapter trains biases of the base.", biases),
    GroupRule("batch-changed-base", "error", "Loading an adapter changes the base.", changed_base),
    GroupRule("batch-parameters", "error", "Adapters adapt different parameters.", parameters),
    GroupRule("batch-tokens", "error", "Rows of an embedding that another adapter adapts or copies.", tokens),
)
