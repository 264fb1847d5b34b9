"""A registry's life on every database with every store: push, pull, verify, fsck, rm, gc."""

import pytest

from registry.errors import NotFoundError
from tests.registries import make_adapter


def test_a_version_lives_and_goes(shared_registry, tmp_path):
    registry = shared_registry
    adapter = make_adapter(tmp_path / "adapter")

    pushed = registry.push(adapter, "team/sql")
    again = registry.push(adapter, "team/sql")
    pulled = registry.pull("team/sql")

    assert (pushed.created, again.created, again.version) == (True, False, 1)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (pulled / name).read_bytes() == (adapter / name).read_bytes()
    assert registry.verify("team/sql").files == 2
    assert registry.fsck().findings == ()

    registry.remove("team/sql@1")
    freed = registry.gc(grace="0")

    assert freed.blobs == 2
    assert registry.fsck().findings == ()
    with pytest.raises(NotFoundError):
        registry.undelete("team/sql@1")
