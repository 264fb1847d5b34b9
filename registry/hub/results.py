"""What the Hub's use cases return: frozen values, as JSON on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.compat.finding import Finding


@dataclass(frozen=True, slots=True)
class SentResult:
    """What a pull to the Hub did. `path` is `hf://org/name@commit`, None where a dry run would first make the repo;
    `created` tells whether there is a new commit. `added`, `replaced` and `removed` are paths in the repo.
    """

    ref: str
    digest: str
    path: str | None
    created: bool
    private: bool
    dry_run: bool = False
    added: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImportedRepo:
    """What became of one adapter of the Hub: `created`, `unchanged`, `would import`, `refused` by findings, `failed` or
    `not tried`. `source` names its commit where that is known, `why` what stood in the way, `hint` what may help.
    """

    source: str
    ref: str | None
    status: str
    why: str | None = None
    hint: str | None = None
    findings: tuple[Finding, ...] = ()
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class HubImportResult:
    """What an import of an account did, repo by repo; `others` counts its models that are no adapters."""

    source: str
    repos: tuple[ImportedRepo, ...]
    others: int = 0
    notes: tuple[str, ...] = ()
    dry_run: bool = False

    @property
    def exit_code(self) -> int:
        """0 where nothing failed, 1 where only findings refused, else what the first other failure stands for."""
        failed = [repo.exit_code for repo in self.repos if repo.exit_code]
        return next((code for code in failed if code != 1), failed[0] if failed else 0)
