"""Where everything of a set of adapters lies in their images, before the first byte is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.errors import BaseError, OptionError, RefusedError
from engine.format.adapter import read_adapter
from engine.format.base import read_model_config
from engine.format.imageset import ModulePlaces, Place, SwapClass, class_text, parse_class
from engine.materialize.hotswap.repeated import without_repeated
from engine.materialize.hotswap.standins import standins
from engine.materialize.stored.checkpoint import CONFIG
from engine.merge.dtypes import parse_dtype, widest
from engine.model.fitting.fit import fit, refuse_ranks
from engine.model.kinds import KINDS
from engine.model.memory.layout import joined_wants, make_layout
from engine.model.sites.replication import differing, replication_for
from engine.model.sites.siting import holder
from engine.model.skeleton import model_from_config

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import nn

    from engine.compat.finding import Finding
    from engine.format.facts import AdapterFacts
    from engine.format.files.tensors import Header
    from engine.model.fitting.part import Part
    from engine.model.memory.layout import Layout


@dataclass(frozen=True, slots=True)
class Member:
    """An adapter of the set: what its image will say, its parts on the modules, and the header of its own file."""

    facts: AdapterFacts
    parts: tuple[Part, ...]
    header: Header


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """The layout that all images share, told as a class, and the adapters by name."""

    layout: Layout
    swap_class: SwapClass
    members: Mapping[str, Member]


def plan_images(
    adapters: Mapping[str, Path], *, base: Path | None, target_rank: int | None, dtype: str | None
) -> ImagePlan:
    """The plan of one file for all of them; `target_rank` None is the largest rank, `dtype` None the narrowest that
    holds every number. Raises as `write_images`.
    """
    if not adapters:
        raise OptionError("images: expected at least one adapter, found none")
    if target_rank is not None and target_rank < 1:
        raise OptionError(f"target_rank: expected a whole number of at least 1, found {target_rank}")
    whole = {name: read_adapter(path) for name, path in adapters.items()}
    modules = _modules(tuple(whole.values()), base)
    members = _members(whole, base, modules)
    parts = [part for member in members.values() for part in member.parts]
    refuse_ranks(parts, target_rank)
    rank = target_rank or max(part.rank for part in parts)
    wants = joined_wants({part.path: part.want(rank) for part in member.parts} for member in members.values())
    shapes = {path: KINDS[want.kind].shapes(modules[holder(path, want.leaf)], want) for path, want in wants.items()}
    layout = make_layout(wants, shapes, dict.fromkeys(wants, torch.device("cpu")))
    dtype = parse_dtype(dtype) if dtype else widest(_dtypes(members.values()))
    return ImagePlan(layout, _class_of(layout, rank, dtype), members)


def _dtypes(members: Iterable[Member]) -> Iterator[str]:
    """Of every tensor that lies in an image."""
    for member in members:
        for part in member.parts:
            yield from (member.facts.header.tensors[name].dtype for name in part.tensors.values())


def _modules(everyone: Sequence[AdapterFacts], base: Path | None) -> Mapping[str, nn.Module]:
    """The modules that the adapters are held against: the base's on the meta device; as their factors tell where there
    is none, or one that transformers cannot build (of diffusers, of an author's own code) and that nothing needs.
    """
    ranges = [(one.config.lora and one.config.lora.layer_replication) or None for one in everyone]
    other = next((one for one in ranges if one != ranges[0]), ranges[0])
    if other != ranges[0]:
        raise differing(other, ranges[0])
    if base is None:
        return standins(everyone)
    config = base / CONFIG if base.is_dir() else base
    try:
        model = model_from_config(config, read_model_config(config))
    except BaseError as error:
        if not base.exists():
            raise
        return _unbuilt(everyone, error)
    replication = replication_for(everyone[0], model, None, fixed=False)
    return replication.modules if replication else dict(model.named_modules())


def _unbuilt(everyone: Sequence[AdapterFacts], error: BaseError) -> Mapping[str, nn.Module]:
    try:
        return standins(everyone)
    except RefusedError:
        raise error from None


def _members(
    whole: Mapping[str, AdapterFacts], base: Path | None, modules: Mapping[str, nn.Module]
) -> dict[str, Member]:
    """Every adapter held against the modules. Raises RefusedError with what does not fit, of all of them."""
    members: dict[str, Member] = {}
    findings: list[Finding] = []
    for name, read in whole.items():
        try:
            facts = without_repeated(read, base)
            members[name] = Member(facts, fit(facts, modules), read.header)
        except RefusedError as error:
            findings += error.findings
    if findings:
        raise RefusedError(findings)
    return members


def _class_of(layout: Layout, rank: int, dtype: str) -> SwapClass:
    modules = {}
    for path, sections in layout.sections.items():  # in their order, whichever adapter came first
        want = layout.wants[path]
        places = {name: Place(section.offset, section.shape) for name, section in sections.items()}
        modules[path] = ModulePlaces(want.kind, want.rank, want.roles, want.leaf, want.tokens, places)
    return parse_class(class_text(SwapClass("", dtype, rank, layout.total, modules)))
