"""Ask one question about several adapters."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.compat.finding import worst_status
from engine.compat.together import batch, hotswap, merge
from engine.compat.together.group import Group, Lineage
from engine.compat.together.question import Question, parse_question
from engine.compat.together.rows import ask
from engine.compat.together.slot import slot_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from engine.compat.finding import Finding, Status
    from engine.compat.together.group import GroupRule
    from engine.format.facts import AdapterFacts, BaseFacts


@dataclass(frozen=True, slots=True)
class Together:
    """The answer: what the rules say, and the numbers of `hotswap` (class, target_rank, load_first, ranks)."""

    question: str
    findings: tuple[Finding, ...]
    numbers: Mapping[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> Status:
        """The worst of the findings."""
        return worst_status(self.findings)


def check_together(
    adapters: Sequence[AdapterFacts],
    question: str | Question,
    *,
    base: BaseFacts | None = None,
    bases: Sequence[Lineage] | None = None,
    names: Iterable[str] | None = None,
    norms: Iterable[Mapping[str, float | None]] = (),
) -> Together:
    """Whether these adapters can be merged, share one slot, or run in one batch.

    `base` is one base named for all of them; else `bases` says what is known of each one's, by default the name in
    its config. `names` are what messages call the adapters, by default their folders; `norms` are ‖ΔW‖ by module of
    each, where they are known. Every finding's target is the question. Pure: reads no file and no tensor. Raises
    OptionError for an unknown question.
    """
    asked = parse_question(question) if isinstance(question, str) else question
    called = [facts.path.name for facts in adapters] if names is None else list(names)
    adapters = [replace(facts, path=Path(name)) for facts, name in zip(adapters, called, strict=True)]
    if bases is None:
        bases = [Lineage(facts.config.base_model_name_or_path) for facts in adapters]
    group = Group(asked, tuple(adapters), tuple(bases), one_base=base is not None, norms=tuple(norms))
    found = tuple(_findings(group))
    numbers = slot_of(adapters).as_json() if asked.kind == "hotswap" and adapters else {}
    return Together(str(asked), found, numbers)


_TABLES: Mapping[str, tuple[GroupRule, ...]] = {"hotswap": hotswap.RULES, "batch": batch.RULES}


def _findings(group: Group) -> Iterable[Finding]:
    if not group.adapters:
        return ()
    return merge.findings(group) if group.question.kind == "merge" else ask(_TABLES[group.question.kind], group)
