"""Adapters made once, and a skip with its reason where the package index cannot be reached."""

import pytest

from tests.engine.compat.engines.flavours import make
from tests.engines.releases import listing


@pytest.fixture(scope="session")
def network():
    try:
        listing("peft")
    except OSError as error:
        pytest.skip(f"the package index cannot be reached: {error}")


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    made = {}

    def folder_of(name):
        if name not in made:
            made[name] = make(name, tmp_path_factory.mktemp("flavour"))
        return made[name]

    return folder_of
