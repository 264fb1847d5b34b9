"""Which rank a stored merge needs: by hand on spectra, and through a merge, its version and `show`."""

import json

import numpy as np
import pytest

from registry.browse.rankneeds import RanksFor, ranks_for
from registry.cli.failure import run
from registry.errors import NotFoundError, UsageError
from tests.registries import MODULES, make_adapter

WHOLE = {"name": "whole", "spectrum": [80.0**0.5, 15.0**0.5, 5.0**0.5]}
CUT = {"name": "cut", "spectrum": [80.0**0.5, 15.0**0.5]}
GROUPED = {"name": "grouped", "spectrum": None}
REPORT = {"per_module": [{"name": "whole", "target_norm": 10.0}, {"name": "cut", "target_norm": 10.0}]}


@pytest.mark.parametrize(("share", "rank"), [(0.5, 1), (0.8, 1), (0.81, 2), (0.95, 2), (0.96, 3), (1.0, 3)])
def test_the_fewest_ranks_that_hold_the_share(share, rank):
    assert ranks_for("t/a@1", [WHOLE], REPORT, share) == RanksFor(share, {"whole": rank}, {}, ())


def test_more_than_is_known_and_not_known_at_all():
    """Two of three singular values hold 95 %; whatever a grouped convolution needs is not stored."""
    found = ranks_for("t/a@1", [WHOLE, CUT, GROUPED], REPORT, 0.97)

    assert found.modules == {"whole": 3, "cut": None, "grouped": None}
    assert (found.more_than, found.unknown) == ({"cut": 2}, ("grouped",))


def test_a_version_from_before_norms_were_stored_has_its_whole_spectrum():
    assert ranks_for("t/a@1", [CUT], {"per_module": [{"name": "cut"}]}, 0.99).modules == {"cut": 2}


def test_a_module_of_zeros_keeps_one_rank():
    zero = {"name": "zero", "spectrum": [0.0, 0.0]}

    assert ranks_for("t/a@1", [zero], None, 0.99).modules == {"zero": 1}


@pytest.mark.parametrize("share", [0.0, -1.0, 1.01, float("nan"), float("inf")])
def test_a_share_is_more_than_nothing_and_at_most_all(share):
    with pytest.raises(UsageError, match="expected a share in"):
        ranks_for("t/a@1", [WHOLE], REPORT, share)


def test_a_pushed_version_names_the_command_that_computes_it(registry, tmp_path):
    registry.push(make_adapter(tmp_path / "a", 1), "team/a")

    with pytest.raises(NotFoundError, match="no spectrum is stored") as caught:
        registry.show("team/a", energy=0.97)

    assert caught.value.hint == "adapters merge team/a@1 --combination resize --energy 0.97 --into NAME --dry-run"
    assert registry.show("team/a").ranks_for is None


@pytest.fixture
def merged(registry, tmp_path):
    for seed, name in enumerate("ab", 1):
        registry.push(make_adapter(tmp_path / name, seed), f"team/{name}")
    registry.merge(["team/a", "team/b"], combination="svd", rank=1, into="team/ab")
    return registry


def test_show_counts_what_the_merge_aimed_at(merged):
    """The result has rank 1; its target had 4, and the ranks are those of the target's stored spectrum."""
    detail = merged.show("team/ab", energy=0.9)

    spectra = {module["name"]: np.array(module["spectrum"]) ** 2 for module in detail.modules}
    held = {name: np.cumsum(levels) / levels.sum() for name, levels in spectra.items()}
    assert detail.ranks_for.modules == {name: int(np.argmax(shares >= 0.9)) + 1 for name, shares in held.items()}
    assert set(detail.ranks_for.modules) == set(MODULES)


def test_show_prints_the_rank_of_every_module(merged, capfd):
    code = run(["show", "team/ab", "--energy", "0.9", "--format", "json"], opener=lambda settings: merged)

    found = json.loads(capfd.readouterr().out)["ranks_for"]
    assert (code, found["share"], found["modules"].keys()) == (0, 0.9, set(MODULES))

    run(["show", "team/ab", "--energy", "0.9"], opener=lambda settings: merged)

    lines = [line.split() for line in capfd.readouterr().out.splitlines()]
    assert ["TO", "KEEP", "90", "%", "OF", "RANK"] in lines
    assert all([name, str(rank)] in lines for name, rank in found["modules"].items())


def test_show_prints_the_ranks_of_four_shares(merged, capfd):
    run(["show", "team/ab"], opener=lambda settings: merged)

    lines = capfd.readouterr().out.splitlines()
    place = next(place for place, line in enumerate(lines) if line.startswith("TO KEEP OF EVERY MODULE"))
    assert [line.split()[:2] for line in lines[place + 1 : place + 5]] == [
        ["90", "%"],
        ["95", "%"],
        ["99", "%"],
        ["99.9", "%"],
    ]
    assert all(line.endswith(" B") for line in lines[place + 1 : place + 5])
