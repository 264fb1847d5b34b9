"""Which tensors of an adapter belong on which module of a model, whatever the type of the adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from engine.compat.finding import Finding
from engine.compat.together.ia3 import scales_input, with_vectors
from engine.format.names.keys import WRAPPER, parse_key
from engine.format.names.modules import EXTRA_ROLES

if TYPE_CHECKING:
    from torch import nn

    from engine.format.facts import AdapterFacts, ModuleFacts
    from engine.model.fitting.fit_tensors import Claims as Taken

_STRAY = ("modules_to_save", "original_module")
"""PEFT repeats the biases of a saved module under these names; its copy has them too."""

_PROMISED = {"use_dora": "magnitude", "lora_bias": "lora_bias"}
"""Settings without whose tensors a module's factors are something else than what was trained."""

TokenSetting = Sequence[int] | Mapping[str, Sequence[int]] | None


@dataclass(slots=True)
class Claim:
    """The tensors on one module, by role; what `Part` says of rank, scaling and tokens."""

    rank: int = 0
    scaling: float = 1.0
    tensors: dict[str, str] = field(default_factory=dict)
    tokens: tuple[int, ...] = ()

    def __str__(self) -> str:
        return ", ".join(self.tensors)


class Claims:
    """The claims of one adapter by module path, and what no module can take."""

    def __init__(self, facts: AdapterFacts, modules: Mapping[str, nn.Module], taken: Taken) -> None:
        self.facts = facts
        self.modules = modules
        self.taken = taken
        self.found: dict[str, Claim] = {}
        self.findings: list[Finding] = []

    def of(self, path: str) -> Claim:
        """The claim on a module, a new one where there is none yet."""
        return self.found.setdefault(path, Claim())

    def refuse(self, rule: str, where: str, message: str) -> None:
        """Note that this cannot be."""
        self.findings.append(Finding(rule, "error", f"{where}: {message}", where=where))


def completed(facts: AdapterFacts) -> AdapterFacts:
    """The facts of types that are no LoRA, with their vectors as modules and their full copies among the others."""
    if facts.config.peft_type == "IA3":
        return with_vectors(facts)
    if facts.config.lora is not None:
        return facts
    saved = facts.config.raw.get("modules_to_save")
    ends = tuple(entry for entry in saved if isinstance(entry, str)) if isinstance(saved, list) else ()
    modules = {name: parse_key(name).module for name in facts.header.tensors}
    copies = [name for name, module in modules.items() if any(f".{end}." in f".{module}." for end in ends)]
    return replace(facts, others=dict.fromkeys(copies, "modules_to_save"))


def claims_of(
    facts: AdapterFacts, modules: Mapping[str, nn.Module], taken: Taken
) -> tuple[dict[str, Claim], list[Finding]]:
    """The claims by path, without what is on single tensors, and a finding for every tensor that makes none."""
    claims = Claims(facts, modules, taken)
    reader = {"LORA": _lora, "IA3": _ia3, "ADALORA": _adalora, "TRAINABLE_TOKENS": _tokens}.get(facts.config.peft_type)
    if reader is not None:
        reader(claims)
    for name in facts.others.keys() - taken.tensors:
        if facts.others[name] not in (*EXTRA_ROLES, "tokens", "bias"):
            claims.refuse("own-part", name, f"a tensor of {facts.others[name]} is not run here")
    return claims.found, claims.findings


def _lora(claims: Claims) -> None:
    for module in claims.facts.modules:
        if module.name not in claims.taken.modules:
            _factors(claims, module)
    for name, role in claims.facts.others.items():
        if role in ("tokens", "bias"):
            _other(claims, name, role)


def _factors(claims: Claims, module: ModuleFacts) -> None:
    path = module.base_name
    if module.configured_rank != module.rank:
        claims.refuse("rank-mismatch", path, f"expected rank {module.configured_rank}, found {module.rank}")
    claim = claims.of(path)
    claim.rank, claim.scaling = module.rank, module.scaling
    claim.tensors |= {"A": module.a_key, "B": module.b_key}
    if module.extras:
        claim.tensors |= {parse_key(key).role: key for key in module.extras}
    for setting, role in _PROMISED.items():
        if getattr(claims.facts.config.lora, setting) and role not in claim.tensors:
            claims.refuse("pair-incomplete", path, f"has no {role}, which {setting} asks for")


def _other(claims: Claims, name: str, role: str) -> None:
    """A tensor that is no factor."""
    lora = claims.facts.config.lora
    if lora is None:
        return
    key = parse_key(name)
    if role == "tokens":
        _rows(claims, key.module, name, lora.trainable_token_indices)
    else:
        path = ".".join(part for part in key.module.split(".") if part not in (WRAPPER, "token_adapter"))
        if path.rpartition(".")[2] not in _STRAY:
            claims.of(path).tensors["bias"] = name


def _rows(claims: Claims, path: str, name: str, setting: TokenSetting) -> None:
    """Replaced rows: of the embedding, and of every module that shares its weight and has none of its own."""
    tokens = _tokens_of(path, setting)
    rows = claims.facts.header.tensors[name].shape[0]
    if len(tokens) != rows:
        claims.refuse("token-rows", name, f"expected {len(tokens)} rows, one per token in the config, found {rows}")
        return
    held = claims.modules.get(path)
    table = getattr(held, "weight", None)
    if table is not None and max(tokens, default=0) >= table.shape[0]:
        claims.refuse("token-absent", name, f"token {max(tokens)}: the model has {table.shape[0]}")
    own = {parse_key(other).module for other, role in claims.facts.others.items() if role == "tokens"} - {path}
    tied = [other for other, module in claims.modules.items() if _shares(module, table) and other not in own]
    for place in dict.fromkeys([path, *tied]):
        claim = claims.of(place)
        claim.tensors["rows"], claim.tokens = name, tokens


def _shares(module: nn.Module, table: object) -> bool:
    return table is not None and vars(module).get("_parameters", {}).get("weight") is table


def _tokens_of(path: str, setting: TokenSetting) -> tuple[int, ...]:
    """The tokens of an embedding: those named for its path, or by the end of it, or for the only one there is."""
    if isinstance(setting, Mapping):
        return next((tuple(held) for end, held in setting.items() if f".{path}".endswith(f".{end}")), ())
    return tuple(setting or ())


def _ia3(claims: Claims) -> None:
    facts = claims.facts
    for module in facts.modules:
        role = "l_in" if scales_input(facts, module) else "l_out"
        claims.of(module.base_name).tensors[role] = module.a_key
    for name in facts.unmatched:
        claims.refuse("tensor-unmatched", name, "nothing in the config explains it")


def _adalora(claims: Claims) -> None:
    """AdaLoRA's three factors; the divisor of its alpha is the rank that training began with."""
    raw = claims.facts.config.raw
    alpha, rank = raw.get("lora_alpha") or 0, raw.get("init_r", 12)
    scaling = (alpha if alpha > 0 else rank) / (rank + 1e-5)
    for name, info in claims.facts.header.tensors.items():
        if name in claims.taken.tensors:
            continue
        key = parse_key(name)
        role = {"lora_A": "A", "lora_B": "B", "lora_E": "E"}.get(key.leaf)
        if role is None:
            claims.refuse("tensor-unmatched", name, "nothing in the config explains it")
            continue
        claim = claims.of(key.module)
        claim.scaling = scaling
        claim.tensors[role] = name
        if role == "A":
            claim.rank = info.shape[0] if info.shape else 0
    for path, claim in claims.found.items():
        if len(claim.tensors) < 3:
            claims.refuse("pair-incomplete", path, f"has only {claim}, expected A, B, E")


def _tokens(claims: Claims) -> None:
    for name in claims.facts.header.tensors:
        key = parse_key(name)
        if name in claims.taken.tensors:
            continue
        if key.leaf == "trainable_tokens_delta":
            _rows(claims, key.module, name, claims.facts.config.raw.get("token_indices"))
        else:
            claims.refuse("tensor-unmatched", name, "nothing in the config explains it")
