"""Numbers, leases and files of bundles: what an import gives, protects and refuses; what an export leaves behind."""

import os
import threading

import pytest
from sqlalchemy import select

from registry.bundles import bundle as bundles
from registry.bundles import bundleimport
from registry.errors import ConflictError, LeaseLostError, UnavailableError, UsageError
from registry.models import Lease, LeaseBlob, Version
from registry.records.record import VersionRecord, record_bytes
from tests.e2e.shell import snapshot
from tests.registries import make_adapter, open_registry
from tests.registry.rebuilding.test_rebuild import rows


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """team/a@1 to 3, the first deleted."""
    place = tmp_path_factory.mktemp("source")
    registry = open_registry(place / "home")
    for seed in (1, 2, 3):
        registry.push(make_adapter(place / str(seed), seed), "team/a", tags={"seed": str(seed)})
    registry.remove("team/a@1")
    yield registry
    registry.close()


@pytest.fixture
def bundle(source, tmp_path):
    source.export("team/a", to=tmp_path / "a.tar")
    return tmp_path / "a.tar"


def refs(result):
    return [(one.source, one.ref, one.created) for one in result.versions]


def test_a_number_above_all_others_is_kept_and_the_next_push_goes_on_from_it(source, registry, tmp_path):
    source.export("team/a@3", to=tmp_path / "three.tar", parents=False)

    assert refs(registry.import_(tmp_path / "three.tar")) == [("team/a@3", "team/a@3", True)]
    assert registry.push(make_adapter(tmp_path / "new", 9), "team/a").ref == "team/a@4"


def test_a_number_that_was_passed_over_is_not_given_any_more(source, registry, tmp_path):
    """P2: 2 was never a version here, but what came after it was."""
    for number in (3, 2):
        source.export(f"team/a@{number}", to=tmp_path / f"{number}.tar", parents=False)
    registry.import_(tmp_path / "3.tar")

    result = registry.import_(tmp_path / "2.tar")

    assert refs(result) == [("team/a@2", "team/a@4", True)]
    assert result.notes == ("team/a@2 is team/a@4 here",)


def test_the_number_of_a_deleted_version_is_not_given_again(bundle, registry, tmp_path):
    registry.push(make_adapter(tmp_path / "x", 7), "team/a")
    registry.push(make_adapter(tmp_path / "y", 8), "team/a")
    registry.remove("team/a@2")

    assert refs(registry.import_(bundle)) == [("team/a@2", "team/a@3", True), ("team/a@3", "team/a@4", True)]


def test_content_that_is_here_keeps_its_number_and_its_labels(source, bundle, registry, tmp_path):
    registry.push(make_adapter(tmp_path / "same", 2), "team/a", tags={"seed": "mine"})

    assert refs(registry.import_(bundle)) == [("team/a@2", "team/a@1", False), ("team/a@3", "team/a@3", True)]
    assert [registry.show(f"team/a@{number}").tags for number in (1, 3)] == [{"seed": "mine"}, {"seed": "3"}]


def test_a_deleted_version_comes_back_with_its_content(bundle, registry):
    registry.import_(bundle)
    registry.remove("team/a@3")
    registry.gc(grace="0")

    registry.import_(bundle)

    assert registry.verify("team/a@3").files == 2
    assert registry.fsck().findings == ()


def test_an_import_leases_what_it_needs_before_the_first_blob_is_placed(bundle, registry, monkeypatch):
    store, seen = type(registry._handle.store), []
    place = store.place

    def looking(self, *files):
        query = select(LeaseBlob.digest).join(Lease, Lease.id == LeaseBlob.lease_id)
        leased = {found for (found,) in rows(registry, query)}
        seen.append(({file.digest for file in files} <= leased, len(files)))
        return place(self, *files)

    monkeypatch.setattr(store, "place", looking)
    registry.import_(bundle)

    # the config is shared: 2 weights, 1 config, 2 manifests; then the two records, known only in the transaction
    assert seen[0] == (True, 5)
    assert [count for _, count in seen[1:]] == [1, 1]
    assert rows(registry, select(Lease.id)) == []


def test_an_import_whose_lease_is_gone_records_nothing(bundle, registry, monkeypatch):
    real = bundleimport._record_all

    def late(session, handle, planned, lease):
        bundleimport.leases.release(session, lease)
        return real(session, handle, planned, lease)

    monkeypatch.setattr(bundleimport, "_record_all", late)
    with pytest.raises(LeaseLostError):
        registry.import_(bundle)

    assert rows(registry, select(Version.id)) == []


def test_a_file_that_passes_for_a_record_is_refused(source, tmp_path, registry, monkeypatch):
    """A registry that took one in before the check may export it."""
    lie = record_bytes(VersionRecord("team/prod", 7, source.show("team/a@2").digest))
    other = open_registry(tmp_path / "other")
    (make_adapter(tmp_path / "x", 5) / "README.md").write_bytes(lie)
    with monkeypatch.context() as patch:
        patch.setattr("registry.push.refuse_record", lambda *_: None)
        other.push(tmp_path / "x", "team/x")
    other.export("team/x", to=tmp_path / "x.tar")
    other.close()

    from registry.errors import IntakeError

    with pytest.raises(IntakeError, match=r"team/x@1/README\.md: is a version's record"):
        registry.import_(tmp_path / "x.tar")
    assert registry.list() == []


def test_what_comes_to_the_name_while_a_bundle_is_written_is_not_replaced(source, tmp_path, monkeypatch):
    write = bundles._write

    def slow(*arguments):
        done = write(*arguments)
        (tmp_path / "x.tar").write_text("somebody else's")
        return done

    monkeypatch.setattr(bundles, "_write", slow)
    with pytest.raises(ConflictError, match="exists already"):
        source.export("team/a", to=tmp_path / "x.tar")

    assert snapshot(tmp_path).keys() == {str(tmp_path / "x.tar")}
    assert (tmp_path / "x.tar").read_text() == "somebody else's"


def test_an_export_that_fails_in_the_middle_leaves_nothing(source, tmp_path, monkeypatch):
    monkeypatch.setattr(bundles, "padding", lambda size: (_ for _ in ()).throw(OSError(28, os.strerror(28))))

    with pytest.raises(UnavailableError, match="No space left"):
        source.export("team/a", to=tmp_path / "x.tar")

    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_never_replaced_by_a_bundle(source, tmp_path):
    with pytest.raises(ConflictError, match="exists already"):
        source.export("team/a", to=tmp_path, force=True)


def test_more_versions_than_an_index_holds_are_refused(source, tmp_path, monkeypatch):
    monkeypatch.setattr(bundles, "LARGEST_INDEX", 100)

    with pytest.raises(UsageError, match="2 versions are too many"):
        source.export("team/a", to=tmp_path / "x.tar")
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_is_no_bundle(registry, tmp_path):
    """It would be waited for without end."""
    os.mkfifo(tmp_path / "pipe")
    done = threading.Event()
    told = []

    def run():
        try:
            registry.import_(tmp_path / "pipe")
        except Exception as error:  # noqa: BLE001 (told below)
            told.append(str(error))
        done.set()

    threading.Thread(target=run, daemon=True).start()

    assert done.wait(20)
    assert told == [f"{tmp_path / 'pipe'}: not a regular file"]
