"""What a row of the table of methods says, and what every method is called with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.merge.given.options import Options
from engine.merge.matrices.parts import Parts
from engine.merge.matrices.target import Target

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from engine.merge.matrices.factors import FactorFile
    from engine.merge.plan import MergePlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where a method is at work: module and group, and the weights w_i of the parts there.

    `absent` are the weights of the parents without this module, whose ΔW there is zero.
    `rank` is how many singular values the result will keep at most. `keys` are digests of the parents' tensors and
    `thresholds` the magnitudes below which their elements are dropped, both only for methods whose survey finds them.
    `options` are complete. For PEFT's semantics: `random` is drawn from by one module after the other, `transposed`
    says that the base lays the weight out as ΔW transposed, and the result is multiplied by `inflation`.
    """

    weights: Sequence[float]
    rank: int
    module: str = ""
    group: int = 0
    keys: Sequence[str] = ()
    absent: Sequence[float] = ()
    thresholds: Sequence[float] = ()
    options: Options = field(default_factory=Options)
    random: torch.Generator | None = None
    transposed: bool = False
    inflation: float = 1.0


Combine = Callable[[Parts, Site], Target]
Check = Callable[["Sequence[float]"], None]

Survey = Callable[["MergePlan", "Sequence[FactorFile]", "int | None"], "MergePlan"]
"""From a plan, the parents' open files and the number of threads to the plan with what all modules say together."""


@dataclass(frozen=True, slots=True)
class Method:
    """A row of the table; `summary` is help.

    `stacks`: the result has the sum of the parents' ranks and takes no other. `linear`: the merged ΔW is Σ w_i·ΔW_i, so
    whatever else is linear may be summed beside it. `full_rank`: parents' ΔW may be dense matrices (DoRA). `dense`: the
    result may have any rank up to min(m, n), not only up to the sum of the parents'. `same_rank`: the result has the
    one rank of all parents. `ordered`: modules run one after the other in the natural order of their names, drawing
    from Site.random. `fewest` and `most` parents are taken. `defaults` names the options the method takes, with their
    values where none is given; one that is None must be given. `check` raises OptionError for weights, of all parents
    in one module and finite, that say nothing to the method. `survey` is called once, before the first module.
    """

    combine: Combine
    summary: str
    stacks: bool = False
    linear: bool = False
    full_rank: bool = False
    dense: bool = False
    same_rank: bool = False
    ordered: bool = False
    fewest: int = 1
    most: int | None = None
    defaults: Mapping[str, object] = field(default_factory=dict)
    check: Check | None = None
    survey: Survey | None = None
