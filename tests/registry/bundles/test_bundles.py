"""Bundles: what one registry exports another imports, verified; what no export wrote is refused and leaves nothing."""

import io
import tarfile

import pytest
from sqlalchemy import select

from registry.bundles.archive import END, header, padding
from registry.errors import ConflictError, CorruptError, FindingsError, IntakeError, UnavailableError, UsageError
from registry.models import Adapter, Version
from tests.e2e.shell import snapshot
from tests.registries import make_adapter, make_base, open_registry


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Two versions of team/a, one merge of the second with team/b, all of one known base; made once."""
    place = tmp_path_factory.mktemp("source")
    registry = open_registry(place / "home")
    registry.add_base(make_base(place / "base"), names=["team/base"])
    registry.push(make_adapter(place / "a1", 1), "team/a", tags={"k": "v"}, metrics={"m": 0.5}, message="first")
    registry.push(make_adapter(place / "a2", 2), "team/a", parents=["team/a@1"], aliases=["prod"])
    registry.push(make_adapter(place / "b", 3), "team/b")
    registry.merge(["team/a@2", "team/b@1"], weights=[0.75, 0.25], combination="svd", rank=2, into="team/ab")
    yield registry
    registry.close()


@pytest.fixture(scope="module")
def bundle(source, tmp_path_factory):
    place = tmp_path_factory.mktemp("bundle") / "ab.tar"
    source.export("team/ab", to=place)
    return place


@pytest.fixture
def target(tmp_path):
    registry = open_registry(tmp_path / "target")
    registry.init()
    registry.settings.staging.mkdir()
    yield registry
    registry.close()


def names(path):
    with tarfile.open(path) as archive:
        return [member.name for member in archive]


def edges(registry, ref):
    found = [(one.child, one.parent, one.relation, one.weight) for one in registry.lineage(ref, down=False).edges]
    return sorted(found, key=str)


def test_a_bundle_is_a_plain_tar_with_the_index_first_and_blobs_in_order(bundle):
    found = names(bundle)

    assert found[0] == "bundle.json"
    assert found[1:] == sorted(found[1:])
    # 4 versions: 4 weights, 4 manifests, the config of three and that of the merge, one base, one report
    assert len(found) == 1 + 12


def test_the_same_content_gives_the_same_bytes(source, bundle, tmp_path):
    source.export("team/ab@1", to=tmp_path / "again.tar")

    assert (tmp_path / "again.tar").read_bytes() == bundle.read_bytes()


def test_everything_arrives(source, bundle, target):
    result = target.import_(bundle)

    assert [(one.ref, one.source, one.created) for one in result.versions] == [
        ("team/a@1", "team/a@1", True),
        ("team/a@2", "team/a@2", True),
        ("team/ab@1", "team/ab@1", True),
        ("team/b@1", "team/b@1", True),
    ]
    for ref in ("team/a@1", "team/a@2", "team/ab@1", "team/b@1"):
        here, there = target.show(ref), source.show(ref)
        assert (here.digest, here.tensors_digest, here.files) == (there.digest, there.tensors_digest, there.files)
        assert (here.config, here.report, here.message) == (there.config, there.report, there.message)
        assert here.modules == there.modules
        assert (here.tags, here.metrics, here.aliases) == (there.tags, there.metrics, there.aliases)
        assert here.recipe == there.recipe
    assert edges(target, "team/ab@1") == edges(source, "team/ab@1")
    assert target.base("team/base").fingerprint == source.base("team/base").fingerprint
    assert target.fsck().findings == ()
    assert target.show("team/a@1").pushed_by == "tester"


def test_importing_twice_is_unchanged(bundle, target):
    target.import_(bundle)
    before = target.lineage("team/ab@1"), target.list(all_versions=True)

    again = target.import_(bundle)

    assert [one.created for one in again.versions] == [False] * 4
    assert (target.lineage("team/ab@1"), target.list(all_versions=True)) == before
    assert again.notes == ()


def test_a_number_that_is_taken_becomes_the_next_and_is_told(bundle, target, tmp_path):
    target.push(make_adapter(tmp_path / "x", 9), "team/a", aliases=["prod"])

    result = target.import_(bundle)

    assert [one.ref for one in result.versions if one.name == "team/a"] == ["team/a@2", "team/a@3"]
    assert set(result.notes) == {
        "team/a@1 is team/a@2 here",
        "team/a@2 is team/a@3 here",
        "alias prod of team/a stays where it is",
    }
    assert ("team/ab@1", "team/a@3", "merged_from", 0.75) in edges(target, "team/ab@1")


def test_names_are_mapped(bundle, target):
    result = target.import_(bundle, names={"team": "staging", "team/ab": "prod/both"})

    assert [one.ref for one in result.versions] == ["staging/a@1", "staging/a@2", "prod/both@1", "staging/b@1"]
    assert ("prod/both@1", "staging/a@2", "merged_from", 0.75) in edges(target, "prod/both@1")


def test_without_parents_an_edge_names_the_digest(source, target, tmp_path):
    source.export("team/ab", to=tmp_path / "one.tar", parents=False)
    result = target.import_(tmp_path / "one.tar")

    assert [one.ref for one in result.versions] == ["team/ab@1"]
    assert {parent for _, parent, kind, _ in edges(target, "team/ab@1") if kind == "merged_from"} == {
        source.show("team/a@2").digest,
        source.show("team/b@1").digest,
    }


def test_a_dry_run_tells_the_same_and_writes_nothing(bundle, target):
    before = snapshot(target.settings.blobs)

    told = target.import_(bundle, dry_run=True)

    assert snapshot(target.settings.blobs) == before
    assert target.list() == []
    assert told.versions == target.import_(bundle).versions


def test_export_replaces_a_file_only_when_told(source, tmp_path):
    place = tmp_path / "x.tar"
    place.write_text("mine")

    with pytest.raises(ConflictError, match="exists already"):
        source.export("team/b", to=place)
    assert place.read_text() == "mine"
    source.export("team/b", to=place, force=True)

    assert names(place)[0] == "bundle.json"
    assert [one.name for one in tmp_path.iterdir()] == ["x.tar"]


def test_wrong_bytes_in_the_store_make_no_bundle(tmp_path):
    registry = open_registry(tmp_path / "home")
    made = registry.push(make_adapter(tmp_path / "a"), "team/a")
    weights = next(one.sha256 for one in registry.show(made.ref).files if one.path.endswith("safetensors"))
    path = registry.settings.blobs / "sha256" / weights[7:9] / weights[7:]
    path.chmod(0o600)
    path.write_bytes(b"\0" + path.read_bytes()[1:])

    with pytest.raises(CorruptError):
        registry.export("team/a", to=tmp_path / "x.tar")

    assert not (tmp_path / "x.tar").exists()
    registry.close()


def members(bundle):
    with tarfile.open(bundle) as archive:
        return [(one.name, archive.extractfile(one).read()) for one in archive]


def packed(parts):
    return b"".join(header(name, len(content)) + content + padding(len(content)) for name, content in parts) + END


def with_tarfile(parts, change):
    """The archive as Python's tarfile writes it, one member changed into something else."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for place, (name, content) in enumerate(parts):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(change(place, info, content)))
    return buffer.getvalue()


def turned_into(kind, target="/etc/passwd"):
    def change(place, info, content):
        if place == 2:
            info.type, info.linkname, info.size = kind, target, 0
            return b""
        return content

    return lambda parts: with_tarfile(parts, change)


def named(name):
    return lambda parts: packed([*parts[:2], (name, parts[2][1]), *parts[3:]])


def index_with(old, new):
    def change(parts):
        assert old in parts[0][1]
        return packed([(parts[0][0], parts[0][1].replace(old, new, 1)), *parts[1:]])

    return change


HOSTILE = {
    "empty": lambda parts: b"",
    "not a tar": lambda parts: b"x" * 4096,
    "gzip": lambda parts: b"\x1f\x8b" + bytes(1000),
    "zeros": lambda parts: bytes(10240),
    "traversal": named("../../evil"),
    "absolute": named("/tmp/evil"),
    "folder below": named("blobs/sha256/../../evil"),
    "symbolic link": turned_into(tarfile.SYMTYPE),
    "hard link": turned_into(tarfile.LNKTYPE),
    "character device": turned_into(tarfile.CHRTYPE),
    "block device": turned_into(tarfile.BLKTYPE),
    "pipe": turned_into(tarfile.FIFOTYPE),
    "folder": turned_into(tarfile.DIRTYPE),
    "sparse": turned_into(tarfile.GNUTYPE_SPARSE),
    "long name": turned_into(tarfile.GNUTYPE_LONGNAME),
    "extended header": turned_into(tarfile.XHDTYPE),
    "a member twice": lambda parts: packed([*parts[:3], parts[2], *parts[3:]]),
    "a member missing": lambda parts: packed([*parts[:2], *parts[3:]]),
    "a member more": lambda parts: packed([*parts, ("blobs/sha256/" + "f" * 64, b"x")]),
    "another order": lambda parts: packed([parts[0], *reversed(parts[1:])]),
    "no index": lambda parts: packed(parts[1:]),
    "cut in a header": lambda parts: packed(parts)[:700],
    "cut in a member": lambda parts: packed(parts)[: -len(END) - 700],
    "cut before the end": lambda parts: packed(parts)[: -len(END)],
    "bytes after the end": lambda parts: packed(parts) + b"x",
    "an archive after the end": lambda parts: packed(parts) + packed(parts),
    "padding that is not zeros": lambda parts: packed(parts).replace(parts[0][1] + b"\0", parts[0][1] + b"x", 1),
    "a size that lies": index_with(b'"size":', b'"size":1'),
    "an unknown schema": index_with(b'"schema":1,"versions"', b'"schema":2,"versions"'),
    "not canonical": index_with(b'{"blobs"', b'{ "blobs"'),
    "a key twice": index_with(b'"kind":"bundle"', b'"kind":"bundle","kind":"bundle"'),
    "a digest that is a path": index_with(b'{"digest":"sha256:', b'{"digest":"../../:'),
    "a name that is a path": index_with(b'"name":"team/a"', b'"name":"../../a"'),
    "a number that is none": index_with(b'"number":1,', b'"number":0,'),
    "an alias that is a number": index_with(b'["prod"]', b'["7"]'),
    "a NUL": index_with(b'"first"', b'"fi\\u0000rst"'),
    "deep": lambda parts: packed([("bundle.json", b"[" * 200_000), *parts[1:]]),
    "an index too large": lambda parts: header("bundle.json", (32 << 20) + 1) + bytes(512),
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=list(HOSTILE))
def test_an_archive_that_no_export_wrote_is_refused_and_leaves_nothing(bundle, target, tmp_path, make):
    (tmp_path / "x.tar").write_bytes(make(members(bundle)))
    before = snapshot(tmp_path)

    with pytest.raises(UsageError):
        target.import_(tmp_path / "x.tar")

    assert snapshot(tmp_path) == before


def test_more_than_the_disk_holds_is_refused_before_it_is_read(bundle, target, tmp_path):
    (tmp_path / "x.tar").write_bytes(index_with(b'"size":', b'"size":99999999999999')(members(bundle)))
    before = snapshot(tmp_path)

    with pytest.raises(UnavailableError, match="are free"):
        target.import_(tmp_path / "x.tar")

    assert snapshot(tmp_path) == before


def test_wrong_bytes_are_named_and_leave_nothing(bundle, target, tmp_path):
    parts = members(bundle)
    name, content = parts[3]
    parts[3] = (name, bytes([content[0] ^ 1]) + content[1:])
    (tmp_path / "x.tar").write_bytes(packed(parts))
    before = snapshot(tmp_path)

    with pytest.raises(CorruptError, match=name):
        target.import_(tmp_path / "x.tar")

    assert snapshot(tmp_path) == before


def test_rules_refuse_unless_allowed(tmp_path, target):
    """The source allowed NaN; the target does not until told."""
    import numpy as np

    from tests.registries import factors

    registry = open_registry(tmp_path / "home")
    tensors = factors(1)
    next(iter(tensors.values()))[0, 0] = np.nan
    folder = make_adapter(tmp_path / "nan", tensors=tensors)
    with pytest.raises(FindingsError) as caught:
        registry.push(folder, "team/nan")
    rules = sorted({one.rule for one in caught.value.findings if one.severity == "error"})
    registry.push(folder, "team/nan", allow=rules)
    registry.export("team/nan", to=tmp_path / "nan.tar")
    registry.close()

    with pytest.raises(FindingsError):
        target.import_(tmp_path / "nan.tar")
    assert target.list() == []

    assert target.import_(tmp_path / "nan.tar", allow=rules).versions[0].ref == "team/nan@1"


def test_a_name_of_a_base_that_means_another_here_keeps_its_meaning(bundle, target, tmp_path):
    mine = target.add_base(make_base(tmp_path / "other", seed=7), names=["team/base"])

    target.import_(bundle)

    assert target.base("team/base").fingerprint == mine.fingerprint


def test_a_missing_file_and_a_folder_are_named(target, tmp_path):
    with pytest.raises(IntakeError, match="nowhere"):
        target.import_(tmp_path / "nowhere.tar")
    with pytest.raises(IntakeError, match="not a regular file"):
        target.import_(tmp_path)


def test_versions_that_are_deleted_are_left_out_and_named(tmp_path):
    registry = open_registry(tmp_path / "home")
    registry.push(make_adapter(tmp_path / "a"), "team/a")
    registry.push(make_adapter(tmp_path / "b", 1), "team/b", parents=["team/a"])
    registry.remove("team/a@1")

    result = registry.export("team/b", to=tmp_path / "x.tar")

    assert (result.versions, result.left_out) == (("team/b@1",), ("team/a@1",))
    registry.close()


def test_an_import_that_fails_at_the_last_version_records_none(bundle, target, monkeypatch):
    from registry.bundles import bundleimport

    record = bundleimport.record

    def fail_at_b(session, draft, **options):
        if draft.name.name == "b":
            raise ConflictError("on purpose")
        return record(session, draft, **options)

    monkeypatch.setattr(bundleimport, "record", fail_at_b)
    with pytest.raises(ConflictError):
        target.import_(bundle)

    with target._handle.database.reading() as session:
        assert session.scalars(select(Version.id)).all() == []
        assert session.scalars(select(Adapter.id)).all() == []
