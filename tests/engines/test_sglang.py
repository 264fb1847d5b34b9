"""SGLang's own code and our table agree on every flavour."""

import pytest

from engine.compat.engines.target import parse_target
from tests.engine.compat.engines.flavours import FLAVOURS
from tests.engines.oracle import agrees
from tests.engines.sglang_loader import loader_of

pytestmark = pytest.mark.engines


@pytest.mark.parametrize("release", ["0.5.11", "0.5.14", "0.5.18", "0.5.23"])
@pytest.mark.parametrize("name", FLAVOURS)
def test_the_verdict_is_the_engines(name, release, folders, network):
    target = parse_target(f"sglang@{release}:max_lora_rank=64")

    assert agrees(name, folders(name), target, loader_of(release))
