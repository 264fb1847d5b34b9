"""vLLM's own code and our table agree on every flavour, before and after its rewrite of 0.32."""

import pytest

from engine.compat.engines.check import check_for, verdict
from engine.compat.engines.target import parse_target
from engine.format.adapter import read_adapter
from tests.engine.compat.engines.flavours import FLAVOURS
from tests.engines.oracle import judged
from tests.engines.vllm_loader import loader_of

pytestmark = pytest.mark.engines


@pytest.mark.parametrize("release", ["0.13.0", "0.24.0", "0.31.0", "0.32.0", "0.33.0"])
@pytest.mark.parametrize("name", FLAVOURS)
def test_the_verdict_is_the_engines(name, release, folders, network):
    target = parse_target(f"vllm@{release}")
    ours = verdict(check_for(read_adapter(folders(name)), target), target)

    with loader_of(release) as load:
        theirs = judged(name, folders(name), load)

    if theirs is None:
        assert ours in ("differs", "refuses"), "loads there, and PEFT cannot say what it computes"
    else:
        assert ours == theirs
