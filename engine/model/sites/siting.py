"""Makes the site of a want: on the module at its path, or on one tensor of a module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from engine.model.kinds import KINDS
from engine.model.sites.replaced import TensorSite
from engine.model.sites.site import Site

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.model.batches.switch import Switch
    from engine.model.memory.layout import Want


def holder(path: str, leaf: str) -> str:
    """The path of the module of a part: without the tensor's name where the part is on a tensor."""
    return path.removesuffix(leaf).removesuffix(".") if leaf else path


def make_site(path: str, want: Want, modules: Mapping[str, nn.Module], switch: Switch) -> Site:
    """The site, not attached yet."""
    kind = KINDS[want.kind]
    owner = holder(path, want.leaf)
    if not want.leaf:
        return Site(path, modules[owner], kind, switch)
    site = TensorSite(path, modules[owner], kind, switch)
    parent, _, name = owner.rpartition(".")
    if is_called_by_parent(owner, modules):
        site.called_by(modules[parent], f"{name}.{want.leaf}")
    return site


def is_called_by_parent(path: str, modules: Mapping[str, nn.Module]) -> bool:
    """Whether the module's own forward is never called: attention's out_proj, of which it takes the weight."""
    parent, _, name = path.rpartition(".")
    return name == "out_proj" and isinstance(modules.get(parent), nn.MultiheadAttention)
