"""What `Registry` can do to judge adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.check import check, check_request
from registry.checkcatalog import StoredCatalog
from registry.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from registry.check import CheckRequest
    from registry.handle import Handle
    from registry.verdicts import CheckReport


class CheckVerbs:
    """Part of `Registry`; a class because its methods share the open registry."""

    _handle: Handle

    def check(
        self,
        *targets: str,
        base: str | None = None,
        for_engines: Iterable[str] = (),
        with_refs: Iterable[str] = (),
        together: str | None = None,
    ) -> CheckReport:
        """Judge references or paths by the check-in rules, against a base where one is known, and for each engine
        (`vllm@0.33.0:max_lora_rank=64`).
        """
        if tuple(with_refs) or together is not None:
            raise UsageError("checks of several adapters together are not available yet")
        return self.check_request(check_request(targets, base=base, for_engines=for_engines))

    def check_request(self, request: CheckRequest) -> CheckReport:
        """The same for a request that is parsed already."""
        return check(request, lambda: StoredCatalog(self._handle))
