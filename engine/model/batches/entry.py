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


class Entry:
    """The place where every forward of the model begins: there its slots are counted as in use and its cache is held
    against the adapters. Code that is compiled goes past it, as a sealed runtime needs neither there.
    """

    def __init__(self, model: nn.Module, runs: Runs) -> None:
        self._model = model
        self._runs = runs
        self._original = outermost(model)
        self._guard = CacheGuard(self._original)

    def attach(self) -> None:
        """Let the model's calls come here; its signature stays what it was."""
        setattr(self._model, seat_of(self._model), functools.wraps(self._original)(self._forward_function()))

    def detach(self) -> None:
        """Give the model back the forward it had."""
        restore_forward(self._model, self._original)

    def _forward_function(self) -> Callable[..., Any]:
        original = self._original

        def forward(*args: Any, **inputs: Any) -> Any:
            if torch.compiler.is_compiling():
                return original(*args, **inputs)
            return self.run(original, *args, **inputs)

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
