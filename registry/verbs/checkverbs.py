"""What `Registry` can do to judge adapters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from registry.values.progress import silent

if TYPE_CHECKING:
    from collections.abc import Iterable

    from registry.checks.check import CheckRequest
    from registry.checks.lock import LockResult
    from registry.findings.verdicts import CheckReport
    from registry.handle import Handle
    from registry.values.progress import Progress


class CheckVerbs:
    """Part of `Registry`; a class because its methods share the open registry."""

    _handle: Handle

    def check(
        self,
        *targets: str,
        base: str | None = None,
        for_engines: Iterable[str] = (),
        with_refs: Iterable[str] = (),
        together: Iterable[str] = (),
        lock: str | Path | None = None,
        baseline: str | Path | None = None,
    ) -> CheckReport:
        """Judge references or paths by the check-in rules, against a base where one is known, and for each engine
        (`vllm@0.33.0:max_lora_rank=64`). `together` asks `merge[:METHOD]`, `hotswap` or `batch` of all of them and
        `with_refs` at once. With `lock` each reference must mean what that file says; what the file
        `baseline` accepts does not count. Answers about versions against their own base are kept.
        """
        from registry.checks.check import check_request

        request = check_request(
            targets,
            base=base,
            for_engines=for_engines,
            with_refs=with_refs,
            together=together,
            lock=lock,
            baseline=baseline,
        )
        return self.check_request(request)

    def check_all(
        self,
        *,
        for_engines: Iterable[str] = (),
        baseline: str | Path | None = None,
        progress: Progress | None = None,
        processes: int = 1,
    ) -> CheckReport:
        """Judge every live version: what today's rules said of it already stays. Killed, it goes on where it was.

        With several `processes` the caller's own script runs under `if __name__ == "__main__"`.
        """
        from registry.checks.check import check_request

        request = check_request((), for_engines=for_engines, everything=True, baseline=baseline)
        return self.check_request(request, progress=progress, processes=processes)

    def check_request(
        self, request: CheckRequest, *, progress: Progress | None = None, processes: int = 1
    ) -> CheckReport:
        """The same for a request that is parsed already."""
        if request.everything:
            from registry.checks.recheck import recheck

            return recheck(self._handle, request, progress=progress or silent, processes=processes)
        from registry.checks.check import check
        from registry.checks.checkcatalog import StoredCatalog

        catalog = StoredCatalog(self._handle)
        return check(request, lambda: catalog)

    def lock(self, *refs: str, file: str | Path = "adapters.lock") -> LockResult:
        """Write down what references mean now, beside what the file holds; without any, all that it holds anew."""
        from registry.checks.checkcatalog import StoredCatalog
        from registry.checks.lock import LockResult, read_lock, write_lock

        path = Path(file).expanduser()
        before = read_lock(path) if path.exists() or not refs else ()
        catalog = StoredCatalog(self._handle)
        pins = {pin.ref: pin for pin in before} | {ref: catalog.pin(ref) for ref in refs or [one.ref for one in before]}
        write_lock(path, pins.values())
        changed = tuple(ref for ref, pin in sorted(pins.items()) if pin not in before)
        return LockResult(path, tuple(pin for _, pin in sorted(pins.items())), changed)
