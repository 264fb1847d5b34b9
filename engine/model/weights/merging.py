"""Adapters written into the weights of a live model, and the same bits back again."""

from __future__ import annotations

from collections import ChainMap, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from engine.compat.finding import Finding
from engine.errors import RefusedError
from engine.model.kinds import KINDS
from engine.model.memory.places import is_offloaded
from engine.model.weights.codec import BITS4, codec_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from engine.model.fitting.part import Part
    from engine.model.memory.image import Image
    from engine.model.sites.site import Site
    from engine.model.weights.codec import Codec

LEAST_KEPT = 0.9
"""The share of ΔW that must survive on a 4-bit grid, unless the caller takes less."""


@dataclass(frozen=True, slots=True)
class Addition:
    """An adapter to merge: its parts and image, taken `factor` times."""

    name: str
    parts: Mapping[str, Part]
    image: Image
    factor: float


@dataclass(frozen=True, slots=True)
class KeptShare:
    """How much of an intended change arrived: ⟨arrived, intended⟩ / ⟨intended, intended⟩, 1 where all of it did.

    `intended` and `along` are the two sums, so that shares of several parameters add up; `codec` is how it is stored.
    """

    intended: float
    along: float
    codec: str

    @property
    def share(self) -> float:
        return self.along / self.intended if self.intended else 1.0


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What a merge into the weights did: adapters with their factors, and the share of ΔW kept per parameter."""

    names: tuple[str, ...]
    factors: tuple[float, ...]
    kept: Mapping[str, KeptShare]

    @property
    def share(self) -> float:
        """The share of the whole change that arrived in the weights."""
        intended = sum(one.intended for one in self.kept.values())
        return sum(one.along for one in self.kept.values()) / intended if intended else 1.0


@dataclass(frozen=True, slots=True)
class Kept:
    """A parameter as it was before a merge; `shared` is the object that the layer held where it was unshared."""

    layer: nn.Module
    name: str
    codec: Codec
    state: Any
    shared: nn.Parameter | None = None

    def restore(self) -> None:
        """Bring back the same bits, and the same object."""
        if self.shared is not None:
            setattr(self.layer, self.name, self.shared)
        else:
            self.codec.restore(self.layer, self.name, self.state)


class Numbers(Mapping[str, "Tensor"]):
    """A layer's parameters as float32 numbers, read when asked for."""

    def __init__(self, layer: nn.Module) -> None:
        self._layer = layer

    def __getitem__(self, name: str) -> Tensor:
        if getattr(self._layer, name, None) is None:
            raise KeyError(name)
        return codec_of(self._layer, name).read(self._layer, name)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._layer.named_parameters(recurse=False))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Merge:
    """Adapters that lie in the weights. `undo` brings back every bit."""

    def __init__(self, additions: Sequence[Addition]) -> None:
        self.additions = tuple(additions)
        self._kept: list[Kept] = []

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(addition.name for addition in self.additions)

    @torch.no_grad()
    def apply(self, model: nn.Module, sites: Mapping[str, Site], *, unshare: bool, lossy: bool) -> MergeReport:
        """Write the adapters into the weights, parameter by parameter, each rounded once.

        Raises RefusedError, with every weight as it was: for weights that several modules share unless `unshare`, for
        numbers that become NaN or infinite, and where less than 0.9 of the change survives a 4-bit grid unless `lossy`.
        """
        paths = {path for addition in self.additions for path in addition.parts}
        # As in a forward: tensors that are replaced come first, what is added to their module's result after them.
        touched = [sites[path] for path in sorted(paths, key=lambda path: (sites[path].kind.replaced is None, path))]
        if away := [_offloaded(site) for site in touched if is_offloaded(site.module)]:
            raise RefusedError(away)
        if not unshare and (shared := list(_shared(model, touched))):
            raise RefusedError(shared)
        report: dict[str, KeptShare] = {}
        try:
            for site in touched:
                report |= self._site(site, owners(model) if unshare else {})
            _hold(report, lossy=lossy)
        except BaseException:
            self.undo()
            raise
        return MergeReport(self.names, tuple(addition.factor for addition in self.additions), report)

    def undo(self) -> None:
        """Bring back every weight, bit by bit."""
        while self._kept:
            self._kept.pop().restore()

    def _site(self, site: Site, shared: Mapping[int, Sequence[str]]) -> dict[str, KeptShare]:
        """Merge into one module's parameters and measure what arrived."""
        numbers = Numbers(site.module)
        changed: dict[str, Tensor] = {}
        for addition in self.additions:
            part = addition.parts.get(site.path)
            if part is not None:
                device = next(site.module.parameters()).device
                views = {name: view.to(device) for name, view in addition.image.views(site.path).items()}
                values = ChainMap(changed, numbers)  # type: ignore[arg-type]  # only read
                changed |= KINDS[part.kind].merged(site, values, views, part, addition.factor)
        return {f"{site.owner}.{name}": self._write(site, name, W, shared) for name, W in changed.items()}

    def _write(self, site: Site, name: str, W: Tensor, shared: Mapping[int, Sequence[str]]) -> KeptShare:
        layer, place = site.module, f"{site.owner}.{name}"
        if not torch.isfinite(W).all():
            raise _refused("merge-nonfinite", f"{place}: the merged weight holds NaN or infinite numbers", place)
        codec = codec_of(layer, name)
        before = codec.read(layer, name)
        parameter = getattr(layer, name)
        if len(shared.get(id(parameter), ())) > 1:
            self._kept.append(Kept(layer, name, codec, None, parameter))
            setattr(layer, name, torch.nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad))
        else:
            self._kept.append(Kept(layer, name, codec, codec.keep(layer, name)))
        try:
            codec.write(layer, name, W)
        except OverflowError as error:
            raise _refused("merge-overflow", f"{place}: {error}", place) from None
        after = codec.read(layer, name)
        if not torch.isfinite(after).all():
            raise _refused("merge-nonfinite", f"{place}: the merged weight does not fit {parameter.dtype}", place)
        intended = (W - before).double()
        return KeptShare(float((intended**2).sum()), float(((after - before).double() * intended).sum()), codec.name)


def owners(model: nn.Module) -> dict[int, list[str]]:
    """The places that hold each parameter object, by its id."""
    found: defaultdict[int, list[str]] = defaultdict(list)
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            found[id(parameter)].append(f"{path}.{name}")
    return found


def _shared(model: nn.Module, sites: Sequence[Site]) -> Iterator[Finding]:
    places = owners(model)
    for site in sites:
        for name, parameter in site.module.named_parameters(recurse=False):
            place = f"{site.owner}.{name}"
            others = [other for other in places[id(parameter)] if other != place]
            if others:
                message = f"{place} is also {', '.join(others)}: both would change; unshare=True parts them"
                yield Finding("merge-shared", "error", message, where=place)


def _offloaded(site: Site) -> Finding:
    message = (
        f"{site.owner}: its weights wait on the host or a disk until it is called; merge before they are offloaded"
    )
    return Finding("merge-offloaded", "error", message, where=site.owner)


def _hold(report: Mapping[str, KeptShare], *, lossy: bool) -> None:
    """Refuse where too little of the change survives a 4-bit grid."""
    few = [place for place, one in report.items() if one.codec == BITS4.name and one.share < LEAST_KEPT]
    if few and not lossy:
        raise RefusedError([_lost(place, report[place].share) for place in few])


def _lost(place: str, share: float) -> Finding:
    message = (
        f"{place}: {share:.1%} of ΔW survives on its 4-bit grid, expected at least {LEAST_KEPT:.0%};"
        " leave the adapter unmerged, merge into the full-precision base, or pass lossy=True"
    )
    return Finding("merge-lossy", "error", message, where=place)


def _refused(rule: str, message: str, where: str) -> RefusedError:
    return RefusedError([Finding(rule, "error", message, where=where)])
