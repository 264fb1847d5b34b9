"""What `check --for own` says is what the engine does: every flavour that PEFT makes, loaded for real."""

import pytest

from engine.compat.engines.check import check_for
from engine.compat.engines.target import parse_target
from engine.compat.finding import worst_status
from engine.errors import RefusedError
from engine.format.adapter import read_adapter
from engine.model import Runtime
from tests.engine.compat.engines.flavours import FLAVOURS, make

OWN = parse_target("own")


@pytest.mark.parametrize("name", FLAVOURS)
def test_an_adapter_loads_where_the_table_says_so(name, tmp_path):
    folder = make(name, tmp_path / "a")
    findings = check_for(read_adapter(folder), OWN)
    runtime = Runtime(FLAVOURS[name][1]().eval())

    if worst_status(findings) == "fail":
        with pytest.raises(RefusedError) as refused:
            runtime.load("a", folder)
        assert {finding.rule for finding in findings} <= {finding.rule for finding in refused.value.findings}
    else:
        runtime.load("a", folder)
        assert runtime.adapters == ("a",)


def test_a_rank_above_the_rooms_is_refused_by_both(tmp_path):
    folder = make("rank 64", tmp_path / "a")

    assert [one.rule for one in check_for(read_adapter(folder), parse_target("own:target_rank=32"))][:1] == ["own-rank"]
    with pytest.raises(RefusedError, match="32"):
        Runtime(FLAVOURS["rank 64"][1]().eval(), target_rank=32).load("a", folder)
