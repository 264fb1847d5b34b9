"""An adapter as PEFT's own folder: as it is, padded, and rewritten for an engine."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from registry.conversions.rewrite import RewriteRequest, rewrite
from registry.errors import FindingsError
from registry.files.checkout import put
from registry.files.scratch import scratch_beside, scratch_folder
from registry.operations import pad_adapter

if TYPE_CHECKING:
    from pathlib import Path

    from registry.artifacts.basefolder import BaseFolder
    from registry.artifacts.request import MaterializeRequest
    from registry.artifacts.sources import Adapter
    from registry.handle import Handle


def write_plain(
    handle: Handle, request: MaterializeRequest, adapter: Adapter, base: BaseFolder | None, *, to: Path
) -> dict[str, Any]:
    """Writes the new folder `to`, and tells what was done. Padded first: what rewrites an adapter keeps its rank."""
    if request.target is None:
        with scratch_beside(to) as scratch:  # which the next request clears, whatever stops this one
            told = pad_adapter(adapter.path, scratch / "padded", rank=request.rank)
            put(scratch / "padded", to)
        return told
    with ExitStack() as stack:
        source, told = adapter.path, {}
        if request.rank is not None:
            source = stack.enter_context(scratch_folder(handle.settings.staging)) / "padded"
            told = pad_adapter(adapter.path, source, rank=request.rank)
        wanted = RewriteRequest(source=str(source.absolute()), target=request.target, to=to)
        try:
            done = rewrite(handle, replace(wanted, base=None if base is None else base.name))
        except FindingsError as refused:  # of the adapter that was asked for, wherever it was padded
            raise FindingsError(
                adapter.name, [replace(finding, target=adapter.name) for finding in refused.findings]
            ) from None
    return {
        **told,
        "target": done.target,
        "rewrites": list(done.rewrites),
        "rank": done.rank,
        "rounded": done.rounded + int(told.get("rounded", 0)),
        "largest_change": max(done.largest_change, float(told.get("largest_change", 0.0))),
        "warnings": [f"{one.rule}: {one.message}" for one in done.findings if one.severity == "warning"],
    }
