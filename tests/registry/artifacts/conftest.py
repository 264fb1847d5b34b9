"""What the tests of artifacts begin with."""

import pytest

from tests.registry.artifacts import world


@pytest.fixture
def registry(prepared):
    """A registry that knows a base and the adapters of `world.fill`, whose folders lie in `tmp_path`."""
    return prepared(world.fill)
