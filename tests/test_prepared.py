"""A prepared registry is what its pushes would have made, and no test's changes reach the next."""

import pytest

from tests.registries import make_adapter, make_base


def build(registry, folder):
    registry.add_base(make_base(folder / "base"))
    registry.push(make_adapter(folder / "a"), "team/a", aliases=["prod"])


@pytest.mark.parametrize("time", [1, 2])
def test_each_gets_it_untouched_and_whole(prepared, tmp_path, time):
    registry = prepared(build)

    assert [version.ref for version in registry.list()] == ["team/a@1"]
    assert registry.show("team/a@prod").version == 1
    assert (registry.fsck().status, registry.verify("team/a@1").status) == ("pass", "pass")
    assert registry.push(make_adapter(tmp_path / "a", 1), "team/a").version == 2
    for blob in registry.settings.blobs.rglob("*"):
        if blob.is_file():
            blob.chmod(0o600)
            blob.write_bytes(b"")


@pytest.mark.parametrize("time", [1, 2])
def test_its_bases_are_known_by_the_tests_own_folder(prepared, tmp_path, time):
    registry = prepared(build)

    assert registry.bases()[0].names == (str(tmp_path / "base"),)
    assert registry.base(str(tmp_path / "base")).fingerprint == registry.bases()[0].fingerprint
