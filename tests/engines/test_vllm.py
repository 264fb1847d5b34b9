"""vLLM's own code and our table agree on every flavour, before and after its rewrite of 0.32."""

import pytest

from engine.compat.engines.target import parse_target
from tests.engine.compat.engines.flavours import FLAVOURS
from tests.engines.oracle import agrees
from tests.engines.vllm_loader import loader_of

pytestmark = pytest.mark.engines


@pytest.mark.parametrize("release", ["0.13.0", "0.24.0", "0.31.0", "0.32.0", "0.33.0"])
@pytest.mark.parametrize("name", FLAVOURS)
def test_the_verdict_is_the_engines(name, release, folders, network):
    target = parse_target(f"vllm@{release}")

    assert agrees(name, folders(name), target, loader_of(release))
