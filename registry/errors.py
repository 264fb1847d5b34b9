"""Every error that registry raises; each maps to one exit code.

RegistryError
├── UsageError               a name, reference, number or option is malformed (exit 2)
├── IntakeError              a given folder or file cannot be taken: missing, symlink, device, … (exit 2)
├── FindingsError            rules refused; carries the findings (exit 1)
├── NotFoundError            nothing of that name, number, digest or alias (exit 4)
├── ConflictError            something else is there: an alias moved, a destination exists, … (exit 5)
│   └── LeaseLostError       a push took so long, or slept, that gc may have collected its blobs (exit 5)
├── CorruptError             stored or transferred bytes do not match their digest (exit 6)
│   ├── MissingBlobError     a blob that something names is not in the store (exit 6)
│   └── SpoiledError         what was sent to a store lies there as something else (exit 6)
└── UnavailableError         database or store cannot be reached or written (exit 7)
    ├── BusyError            another process is in the way for a moment; tried again before it is raised (exit 7)
    │   └── BlobGoingError   gc is deleting a blob that is wanted (exit 7)
    ├── TransientError       a server's failure that may pass; tried again before it is raised (exit 7)
    └── SchemaError          the database is foreign, newer, or waits for `adapters migrate` (exit 7)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.compat.finding import Finding


class RegistryError(Exception):
    """Base of the tree; never raised itself. `hint` is the next command to try, where there is one."""

    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(RegistryError, ValueError):
    """A name, reference, number or option is malformed."""

    exit_code = 2


class IntakeError(RegistryError):
    """A given folder or file cannot be taken in."""

    exit_code = 2


class FindingsError(RegistryError):
    """Rules refused; nothing was written. `findings` holds all of them, not only the errors."""

    exit_code = 1

    def __init__(self, subjects: str | tuple[str, ...], findings: Sequence[Finding]) -> None:
        errors = [finding for finding in findings if finding.severity == "error"]
        rules = ", ".join(sorted({finding.rule for finding in errors}))
        self.subjects = (subjects,) if isinstance(subjects, str) else subjects
        super().__init__(f"{', '.join(self.subjects)}: refused by {rules}")
        self.findings = tuple(findings)


class NotFoundError(RegistryError, LookupError):
    """Nothing of that name, number, digest or alias."""

    exit_code = 4


class ConflictError(RegistryError):
    """Something else is there."""

    exit_code = 5


class LeaseLostError(ConflictError):
    """The lease of a push ran out before its version was published."""


class CorruptError(RegistryError):
    """Stored or transferred bytes do not match their digest."""

    exit_code = 6

    def __init__(self, subject: str, *, expected: str, actual: str, hint: str | None = None) -> None:
        super().__init__(f"{subject}: wrong bytes: expected {expected}, found {actual}", hint=hint)
        self.subject = subject
        self.expected = expected
        self.actual = actual


class MissingBlobError(CorruptError):
    """A blob that something names is not in the store."""


class SpoiledError(CorruptError):
    """What was sent to a store lies there as something else; `digests` are all that one push found so."""

    def __init__(self, subject: str, *, expected: str, actual: str) -> None:
        hint = "it did not arrive as it was sent: run the same command again, which sends it anew"
        super().__init__(subject, expected=expected, actual=actual, hint=hint)
        self.digests: tuple[str, ...] = (expected,)


class UnavailableError(RegistryError):
    """The database or the store cannot be reached, read or written."""

    exit_code = 7


class BusyError(UnavailableError):
    """Another process is in the way for a moment; `Database.write` runs its work again when it meets this."""


class BlobGoingError(BusyError):
    """A gc run is deleting `digest`."""

    def __init__(self, digest: str) -> None:
        super().__init__(f"blob {digest} is being deleted by gc", hint="try again; adapters gc finishes a dead run")
        self.digest = digest


class TransientError(UnavailableError):
    """A server was busy, failing or away for a moment; `wait` is how many seconds it asked for, where it said so."""

    def __init__(self, message: str, *, hint: str | None = None, wait: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.wait = wait


class SchemaError(UnavailableError):
    """The database is foreign, newer than this client, or waits for `adapters migrate`."""
