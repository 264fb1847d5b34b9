"""A registry that answers from a table, and values to answer with: what the command line prints is tested without files."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from registry.cli.failure import run
from registry.results import AliasInfo, PushResult, VersionInfo

if TYPE_CHECKING:
    import pytest

DIGEST = "sha256:" + "ab" * 32
AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


@dataclass
class Answers:
    """`answers` maps a method to what it returns, or raises where it is an exception; `calls` is what was asked."""

    answers: dict[str, Any]
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in self.answers:
            raise AttributeError(name)

        def method(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args, kwargs))
            answer = self.answers[name]
            if isinstance(answer, BaseException):
                raise answer
            return answer

        return method


@dataclass
class Outcome:
    """What one command did."""

    code: int
    out: str
    err: str
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]]


class Adapters:
    """Runs command lines in this process against answers."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str, **answers: Any) -> Outcome:
        registry = Answers(answers)
        code = run(list(arguments), opener=lambda settings: registry)  # type: ignore[arg-type] (a stub)
        captured = self._capsys.readouterr()
        return Outcome(code, captured.out, captured.err, registry.calls)


def version(ref: str = "team/sql@3", **changes: Any) -> VersionInfo:
    name, _, number = ref.partition("@")
    values: dict[str, Any] = {
        "ref": ref,
        "name": name,
        "version": int(number),
        "digest": DIGEST,
        "base": "gpt2",
        "peft_type": "LORA",
        "rank": 16,
        "size": 1_234_567,
        "aliases": ("prod",),
        "tags": {"task": "sql"},
        "metrics": {"accuracy": 0.91},
        "created_at": AT,
    }
    return VersionInfo(**{**values, **changes})


def pushed(**changes: Any) -> PushResult:
    values: dict[str, Any] = {
        "ref": "team/sql@3",
        "name": "team/sql",
        "version": 3,
        "digest": DIGEST,
        "tensors_digest": None,
        "created": True,
    }
    return PushResult(**{**values, **changes})


def moved(**changes: Any) -> AliasInfo:
    values: dict[str, Any] = {"alias": "prod", "ref": "team/sql@3", "version": 3, "previous": 2}
    return AliasInfo(**{**values, **changes})
