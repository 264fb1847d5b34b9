"""The model's own forward, with a plan that stays the same from its first module to its last."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch

from engine.model.batches.caches import CacheGuard
from engine.model.sites.seat import outermost, seat_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from engine.model.batches.runs import Runs

_ENTRY = "_adapters_entry"


class Entry:
    """The place where every forward of the model begins: there its slots are counted as in use and its cache is held
    against the adapters. Code that is compiled goes past it, as a sealed runtime needs neither there.
    """

    def __init__(self, model: nn.Module, runs: Runs) -> None:
        self._model = model
        self._runs = runs
        self.original = outermost(model)
        self._guard = CacheGuard(self.original)

    def attach(self) -> None:
        """Let the model's calls come here; its signature stays what it was."""
        self._forward = functools.wraps(self.original)(self._forward_function())
        vars(self._forward)[_ENTRY] = self
        setattr(self._model, seat_of(self._model), self._forward)

    def detach(self) -> None:
        """Give the model back the forward it had, or that of another runtime which came later."""
        later: Entry | None = getattr(outermost(self._model), _ENTRY, None)
        while later is not None and later is not self and later.original is not self._forward:
            later = getattr(later.original, _ENTRY, None)
        if later is None or later is self:
            restore_forward(self._model, self.original)
        else:
            later.original = self.original

    def _forward_function(self) -> Callable[..., Any]:
        def forward(*args: Any, **inputs: Any) -> Any:
            if torch.compiler.is_compiling():
                return self.original(*args, **inputs)
            return self.run(self.original, *args, **inputs)

        return forward

    def run(self, call: Callable[..., Any], *args: Any, **inputs: Any) -> Any:
        """Call the model, compiled or not, on slots that nobody writes into meanwhile.

        Raises StaleCacheError where its cache was filled under other adapters, RuntimeStateError where the model was
        moved away from them.
        """
        self._runs.refuse_moved()
        with self._runs.current() as plan:
            cache = self._guard.given(args, inputs)
            if cache is not None:
                self._guard.check(cache, self._runs.identity(plan))
            output = call(*args, **inputs)
            made = self._guard.made(output)
            if made is not None and made is not cache:
                self._guard.stamp(made, self._runs.identity(plan))
            return output


def restore_forward(module: nn.Module, original: Callable[..., Any]) -> None:
    """Give the module back the forward it had: its class's, or one that stood on the object."""
    if getattr(original, "__func__", None) is type(module).forward and seat_of(module) == "forward":
        del module.forward
    else:
        setattr(module, seat_of(module), original)
