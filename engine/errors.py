"""Every error that engine raises.

EngineError
├── UnreadableError          a given file is not what it must be (exit 2)
│   ├── HeaderError          a safetensors header is broken or lies
│   ├── ConfigError          an adapter_config.json is broken or is no PEFT config
│   ├── BaseError            a base model's folder cannot be read
│   ├── SourceGoneError      the files of a loaded adapter vanished or changed
│   ├── ChangedError         a given file changed while something was made of it
│   └── NotLoadableError     a pickle asks for more than tensors, or its loading was stopped
├── PatternError             a stored regular expression is invalid or too slow (exit 2)
├── OptionError              an argument is out of range or names nothing known (exit 2)
├── RefusedError             rules said no; carries the findings (exit 1)
├── MissingExtraError        torch or transformers is not installed; names the command (exit 2)
├── OutdatedError            a dependency is older than a verb needs; names the command (exit 2)
├── ConfinementError         this machine cannot lock in the process that opens a pickle (exit 2)
├── WrongBytesError          finished files are no longer what was written (exit 6)
├── DestinationError         the output place cannot be used (exit 2)
│   └── DiskError            the system refuses to write there: full, read-only, failing (exit 7)
│       └── NoSpaceError     its file system has less room than the output needs
└── RuntimeStateError        a live model is not in the state that a call needs (exit 5)
    ├── UnknownAdapterError  no adapter of that name is loaded (exit 4)
    ├── AlreadyLoadedError   another adapter has that name
    ├── InUseError           an adapter is active, pinned or in a running batch
    ├── SlotsFullError       every slot is in use or pinned
    ├── OutOfRoomError       the host or the device has no memory for it
    ├── SealedError          a sealed runtime has no place for it
    ├── StaleCacheError      a KV cache was filled under other adapters
    ├── MergedError          adapters are merged into the weights
    └── BatchError           a batch and its names do not fit (exit 2)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, TypedDict, Unpack

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from engine.compat.finding import Finding


class EngineError(Exception):
    """Base of the tree; never raised itself. `exit_code` is what the command line returns for it."""

    exit_code: ClassVar[int] = 70


class UnreadableError(EngineError):
    """A given file is not what it must be."""

    exit_code = 2

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def call(self, path: Path | str) -> None:
        """Name the file otherwise: what was read was a copy, and its owner knows it by another name."""
        self.path = path
        self.args = (f"{path}: {self.reason}",)


class HeaderError(UnreadableError):
    """A safetensors header is broken or lies; `code` is stable, one per way to be wrong."""

    def __init__(self, path: Path | str, code: str, reason: str) -> None:
        super().__init__(path, f"not a valid safetensors file ({code}): {reason}")
        self.code = code


class ConfigError(UnreadableError):
    """An adapter_config.json is broken, or is a file of another library; `kind` names that library."""

    def __init__(self, path: Path | str, reason: str, *, kind: str | None = None) -> None:
        super().__init__(path, reason)
        self.kind = kind


class BaseError(UnreadableError):
    """A base model's folder cannot be read."""


class SourceGoneError(UnreadableError):
    """The files of a loaded adapter vanished or changed, so that it cannot be brought back from them."""


class ChangedError(UnreadableError):
    """A given file changed while something was made of it; the result was thrown away."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(path, "changed while it was read; run it again when nothing writes to it")


class Spot(TypedDict, total=False):
    """Where in a pickle something is wrong: an opcode, a global as `module.name`, a byte within `part`, which is a
    member of the zip; without `part` of the file itself.
    """

    opcode: str
    name: str | None
    position: int
    part: str


class NotLoadableError(UnreadableError):
    """A pickle asks for more than tensors, or its loading was stopped; `hint` is what to do instead.

    What does not apply of opcode, name, position and part is None.
    """

    hint = (
        "where it was trained, and its maker is trusted: model.save_pretrained('DIR') of peft writes safetensors;"
        " then adapters push DIR NAME"
    )

    def __init__(self, path: Path | str, reason: str, **spot: Unpack[Spot]) -> None:
        self.opcode, self.name = spot.get("opcode"), spot.get("name")
        self.position, self.part = spot.get("position"), spot.get("part")
        places = (None if self.position is None else f"byte {self.position}", self.part)
        where = " of ".join(place for place in places if place)
        super().__init__(path, f"not loadable here: {reason}" + (f" ({where})" if where else ""))


class PatternError(EngineError):
    """A stored regular expression is invalid, too long or too slow."""

    exit_code = 2

    def __init__(self, pattern: str, reason: str) -> None:
        super().__init__(f"pattern {pattern[:80]!r}: {reason}")
        self.pattern = pattern
        self.reason = reason


class OptionError(EngineError, ValueError):
    """An argument is out of range or names nothing known."""

    exit_code = 2


class RefusedError(EngineError):
    """Rules said no; nothing was written. `findings` has every reason, the message the first ones."""

    exit_code = 1
    told: ClassVar[int] = 3

    def __init__(self, findings: Sequence[Finding]) -> None:
        more = len(findings) - self.told
        reasons = [finding.message for finding in findings[: self.told]]
        super().__init__("; ".join(reasons) + (f"; and {more} more" if more > 0 else ""))
        self.findings = tuple(findings)


class MissingExtraError(EngineError):
    """A verb needs an optional dependency that is not installed."""

    exit_code = 2

    def __init__(self, verb: str, package: str, extra: str) -> None:
        super().__init__(
            f"{verb} needs {package}, which is not installed; run: pip install 'adapter-registry[{extra}]'"
        )
        self.package = package
        self.extra = extra


class OutdatedError(EngineError):
    """A dependency is older than a verb needs."""

    exit_code = 2

    def __init__(self, verb: str, package: str, *, needed: str, found: str) -> None:
        super().__init__(
            f"{verb} needs {package} {needed} or newer, found {found}; run: pip install '{package}>={needed}'"
        )
        self.package = package
        self.needed = needed
        self.found = found


class ConfinementError(EngineError):
    """The process that opens a pickle cannot be locked in on such a machine; `hint` says where it can."""

    exit_code = 2
    hint = "run adapters convert on Linux on x86-64 or ARM64, in a container that allows seccomp, and push its folder"


class WrongBytesError(EngineError):
    """Finished files are no longer what was written; `wrong` holds all: subject, expected, found."""

    exit_code = 6
    told: ClassVar[int] = 3

    def __init__(self, wrong: Sequence[tuple[str, str, str]]) -> None:
        more = len(wrong) - self.told
        first = [f"{what}: wrong bytes: expected {expected}, found {found}" for what, expected, found in wrong]
        super().__init__("; ".join(first[: self.told]) + (f"; and {more} more" if more > 0 else ""))
        self.wrong = tuple(wrong)


class DestinationError(EngineError):
    """The output place cannot be used. Who made it in a place of their own says so: `path` may be set anew."""

    exit_code = 2

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class DiskError(DestinationError):
    """The system refuses to write there: full, read-only, not permitted, failing."""

    exit_code = 7


class NoSpaceError(DiskError):
    """The output's file system has less room than it needs, in bytes; nothing was written."""

    def __init__(self, path: Path | str, *, needed: int, free: int) -> None:
        super().__init__(path, f"needs {needed} bytes, {free} are free there; give a place with more room")
        self.needed = needed
        self.free = free


class RuntimeStateError(EngineError):
    """A live model is not in the state that a call needs; nothing was changed."""

    exit_code = 5


class UnknownAdapterError(RuntimeStateError):
    """No adapter of that name is loaded."""

    exit_code = 4

    def __init__(self, name: str, loaded: Sequence[str]) -> None:
        super().__init__(f"no adapter {name!r} is loaded; loaded: {', '.join(sorted(loaded)) or 'none'}")
        self.name = name


class AlreadyLoadedError(RuntimeStateError):
    """Another adapter has that name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"adapter {name!r} is loaded already; call swap({name!r}, path), or load with replace=True")
        self.name = name


class InUseError(RuntimeStateError):
    """An adapter is active, pinned or in a running batch; `why` says which and what to do."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"adapter {name!r} is {why}")
        self.name = name


class OutOfRoomError(RuntimeStateError):
    """The host or the device has no memory for it."""

    def __init__(self, what: str, needed: int) -> None:
        super().__init__(f"{what}: no memory for {needed} bytes; open fewer slots, or bound host_bytes")
        self.needed = needed


class SealedError(RuntimeStateError):
    """A sealed runtime keeps its layout, slots and modules; `what` does not fit them, `missing` are all modules of an
    adapter for which there is no room.
    """

    def __init__(self, what: str, missing: Sequence[str] = ()) -> None:
        super().__init__(f"{what}; the runtime is sealed, call unseal() first")
        self.missing = tuple(missing)


class StaleCacheError(RuntimeStateError):
    """A KV cache was filled under other adapters than those that are to go on with it."""

    def __init__(self, filled: str, now: str) -> None:
        super().__init__(f"the KV cache was filled under {filled}, now {now}; start with a fresh cache")
        self.filled = filled
        self.now = now


class SlotsFullError(RuntimeStateError):
    """Every slot is in use or pinned."""

    def __init__(self, count: int) -> None:
        super().__init__(f"all {count} slots are in use or pinned; unpin or unload an adapter, or open more slots")
        self.count = count


class MergedError(RuntimeStateError):
    """Adapters are merged into the weights, so that what was asked would not do what it says."""

    def __init__(self, what: str, merged: Sequence[str]) -> None:
        super().__init__(f"{what}: {', '.join(merged)} merged into the weights; call unmerge() first")
        self.merged = tuple(merged)


class BatchError(RuntimeStateError):
    """A batch and its names do not fit."""

    exit_code = 2
