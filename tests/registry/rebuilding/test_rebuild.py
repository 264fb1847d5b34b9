"""fsck --rebuild: the catalog is thrown away and made again from the blobs; damage and lies are named, not followed."""

import json

import pytest
from sqlalchemy import delete, select, update

from registry.errors import IntakeError
from registry.models import Adapter, Alias, AliasMove, Document, File, LineageEdge, Metric, Tag, Version, metadata
from registry.records.record import VersionRecord, record_bytes
from tests.registries import make_adapter, make_base

CHECKED_TABLES = (
    select(
        Adapter.namespace + "/" + Adapter.name,
        Version.number,
        Version.digest,
        Version.tensors_digest,
        Version.record_digest,
        Version.newest,
        Version.peft_type,
        Version.rank,
        Version.modules,
        Version.parameters,
        Version.dtype,
        Version.norm,
        Version.size,
        Version.base_name,
        Version.message,
        Version.pushed_by,
        Version.created_at,
        Version.deleted_at,
        Version.freed_at.is_(None),
        Adapter.last_number,
    )
    .join(Adapter, Adapter.id == Version.adapter_id)
    .order_by(Adapter.namespace, Adapter.name, Version.number)
)


def write(registry, statement):
    registry._handle.database.write(lambda session: session.execute(statement).rowcount)


def rows(registry, query):
    with registry._handle.database.reading() as session:
        return [tuple(row) for row in session.execute(query)]


def lose_catalog(registry):
    """Every row of every table but the schema's own."""

    def empty(session):
        for table in reversed(metadata.sorted_tables):
            if table.name != "catalog_meta":
                session.execute(table.delete())

    registry._handle.database.write(empty)


def lineage(registry):
    """(child, relation, parent, weight), parents by name and number."""
    parent, own, other = Version.__table__.alias("p"), Adapter.__table__.alias("a"), Adapter.__table__.alias("b")
    query = (
        select(
            own.c.name,
            Version.number,
            LineageEdge.relation,
            other.c.name,
            parent.c.number,
            LineageEdge.parent_digest,
            LineageEdge.weight,
        )
        .join(Version, Version.id == LineageEdge.child_id)
        .join(own, own.c.id == Version.adapter_id)
        .outerjoin(parent, parent.c.id == LineageEdge.parent_id)
        .outerjoin(other, other.c.id == parent.c.adapter_id)
        .order_by(own.c.name, Version.number, LineageEdge.position, LineageEdge.id)
    )
    return rows(registry, query)


def everything(registry):
    documents = select(Adapter.name, Version.number, Document.kind, Document.body)
    documents = documents.join_from(Document, Version).join(Adapter, Adapter.id == Version.adapter_id)
    files = select(Adapter.name, Version.number, File.path, File.role, File.blob_digest, File.sha256, File.size)
    files = files.join_from(File, Version).join(Adapter, Adapter.id == Version.adapter_id)
    return {
        "versions": rows(registry, CHECKED_TABLES),
        "edges": lineage(registry),
        "documents": sorted(
            ((*row[:3], json.loads(row[3])) for row in rows(registry, documents)), key=lambda row: row[:3]
        ),
        "files": sorted(rows(registry, files), key=str),
        "bases": [(info.fingerprint, info.layout, info.names[:1]) for info in registry.bases()],
    }


@pytest.fixture
def grown(prepared):
    return prepared(grow)


def grow(registry, tmp_path):
    """Two lines of fine-tunes, a merge, a conversion, an edge added later, a known base, one deleted, one freed."""
    registry.add_base(make_base(tmp_path / "base"), names=["team/base"])
    registry.push(make_adapter(tmp_path / "a1", 1), "team/a", message="first", tags={"k": "v"}, aliases=["prod"])
    registry.push(make_adapter(tmp_path / "a2", 2), "team/a", parents=["team/a@1"])
    registry.push(make_adapter(tmp_path / "b1", 3), "team/b")
    registry.push(make_adapter(tmp_path / "b2", 4), "team/b", parents=["team/a@2"], relation="converted_from")
    registry.merge(["team/a@2", "team/b@2"], weights=[0.75, 0.25], combination="svd", rank=2, into="team/ab")
    registry.push(make_adapter(tmp_path / "c1", 5), "other/c")
    registry.push(tmp_path / "c1", "other/c", parents=["team/ab@1"])
    registry.push(make_adapter(tmp_path / "b3", 6), "team/b")
    registry.remove("team/b@3")
    registry.gc(grace="0")
    registry.push(make_adapter(tmp_path / "a3", 7), "team/a")
    registry.remove("team/a@3")


def test_a_lost_catalog_is_made_again(grown):
    before, digests = everything(grown), {ref: grown.show(ref).digest for ref in ("team/a@2", "team/ab@1")}
    lose_catalog(grown)

    result = grown.fsck(rebuild=True)

    assert result.status == "pass", result.findings
    assert sorted(result.made) == [
        *("other/c@1", "team/a@1", "team/a@2", "team/a@3", "team/ab@1", "team/b@1", "team/b@2", "team/b@3"),
    ]
    after = everything(grown)
    assert [(*row[:2], row[5], row[17] is None, row[18], row[19]) for row in after["versions"]] == [
        ("other/c", 1, True, True, True, 1),
        ("team/a", 1, False, True, True, 3),
        ("team/a", 2, True, True, True, 3),
        ("team/a", 3, False, False, True, 3),
        ("team/ab", 1, True, True, True, 1),
        ("team/b", 1, False, True, True, 3),
        ("team/b", 2, True, True, True, 3),
        ("team/b", 3, False, False, False, 3),
    ]
    assert [(*edge[:5], *edge[6:]) for edge in after["edges"]] == [
        ("a", 2, "finetuned_from", "a", 1, None),
        ("ab", 1, "merged_from", "a", 2, 0.75),
        ("ab", 1, "merged_from", "b", 2, 0.25),
        ("b", 2, "converted_from", "a", 2, None),
        ("c", 1, "finetuned_from", "ab", 1, None),
    ]
    assert {ref: grown.show(ref).digest for ref in digests} == digests
    # the documents of a version whose files were freed went with the files
    before["documents"] = [row for row in before["documents"] if row[:2] != ("b", 3)]
    for key in before:
        assert after[key] == before[key], key
    assert grown.show("team/ab@1").report["method"] == "svd"
    assert grown.show("team/a@1").message == "first"


def test_labels_are_not_in_records(grown):
    """P9 promises versions and lineage; a backup or a bundle carries the rest."""
    lose_catalog(grown)
    grown.fsck(rebuild=True)

    assert [rows(grown, select(table)) for table in (Tag, Metric, Alias, AliasMove)] == [[], [], [], []]


def test_what_is_whole_is_left_alone(grown):
    before = everything(grown)

    result = grown.fsck(rebuild=True)

    assert (result.made, result.completed, result.findings) == ((), (), ())
    assert everything(grown) == before


def test_a_second_rebuild_does_nothing(grown):
    lose_catalog(grown)
    grown.fsck(rebuild=True)
    before = everything(grown)

    again = grown.fsck(rebuild=True)

    assert (again.made, again.completed) == ((), ())
    assert everything(grown) == before


def test_the_next_push_takes_a_number_that_was_never_given(grown, tmp_path):
    lose_catalog(grown)
    grown.fsck(rebuild=True)

    assert grown.push(make_adapter(tmp_path / "new", 9), "team/b").ref == "team/b@4"


def test_a_freed_version_comes_back_with_its_content(grown, tmp_path):
    lose_catalog(grown)
    grown.fsck(rebuild=True)

    assert grown.push(tmp_path / "b3", "team/b").ref == "team/b@3"
    assert grown.verify("team/b@3").status == "pass"


def test_a_rebuild_that_was_interrupted_is_finished_by_the_next(grown, monkeypatch):
    from registry.rebuilding import rebuild

    before = everything(grown)
    lose_catalog(grown)
    monkeypatch.setattr(rebuild, "_BATCH", 2)
    make, calls = rebuild._make_batch, []

    def die_at_the_third(work, batch):
        calls.append(batch)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return make(work, batch)

    monkeypatch.setattr(rebuild, "_make_batch", die_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        grown.fsck(rebuild=True)
    assert len(rows(grown, select(Version.id))) == 4
    monkeypatch.setattr(rebuild, "_make_batch", make)
    result = grown.fsck(rebuild=True)

    assert result.status == "pass"
    assert everything(grown)["versions"] == before["versions"]
    assert lineage(grown) == before["edges"]


@pytest.mark.parametrize(
    "damage",
    [
        delete(Document),
        delete(LineageEdge),
        delete(File).where(File.role == "manifest"),
        delete(File).where(File.role == "record"),
        delete(File).where(File.path == "adapter_config.json"),
        update(Version).values(record_digest=None, base_id=None),
    ],
    ids=["documents", "edges", "manifests", "records", "configs", "bases"],
)
def test_rows_that_are_missing_are_added(grown, damage):
    before = everything(grown)
    # what freed files said is gone with them; and their rows keep their place
    write(
        grown, delete(Document).where(Document.version_id.in_(select(Version.id).where(Version.freed_at.is_not(None))))
    )
    write(grown, damage)
    if "record_digest" in str(damage):
        write(grown, delete(File).where(File.role == "record"))

    result = grown.fsck(rebuild=True)

    assert result.status == "pass", result.findings
    assert result.made == ()
    after = everything(grown)
    before["documents"] = [row for row in before["documents"] if row[:2] != ("b", 3)]
    assert after == before


def test_a_row_that_disagrees_with_its_record_is_left_and_named(grown):
    other = "sha256:" + "0" * 64
    write(grown, update(Version).where(Version.digest == grown.show("team/a@1").digest).values(digest=other))

    result = grown.fsck(rebuild=True)

    assert ("record-disagrees", "team/a@1") in {(one.id, one.subject) for one in result.findings}
    assert rows(grown, select(Version.digest).where(Version.number == 1).where(Version.digest == other)) == [(other,)]


def plant(registry, content):
    return registry._handle.store.put_bytes(content)


def findings(result):
    return {(one.id, one.subject) for one in result.findings if one.severity != "info"}


def test_a_file_cannot_speak_for_the_catalog(registry, tmp_path):
    """A record inside a pushed folder is refused; one that an older client took in is named and not followed."""
    made = registry.push(make_adapter(tmp_path / "a"), "team/a")
    lie = record_bytes(VersionRecord("team/prod", 7, made.digest))
    (tmp_path / "a" / "README.md").write_bytes(lie)

    with pytest.raises(IntakeError, match=r"README\.md: is a version's record"):
        registry.push(tmp_path / "a", "team/a")


def test_a_record_that_is_a_versions_file_is_not_followed(registry, tmp_path, monkeypatch):
    from registry import push

    made = registry.push(make_adapter(tmp_path / "a"), "team/a")
    lie = record_bytes(VersionRecord("team/prod", 7, made.digest))
    make_adapter(tmp_path / "b", 1)
    (tmp_path / "b" / "README.md").write_bytes(lie)
    monkeypatch.setattr(push, "refuse_record", lambda *_: None)
    registry.push(tmp_path / "b", "team/b")
    lose_catalog(registry)

    result = registry.fsck(rebuild=True)

    assert sorted(result.made) == ["team/a@1", "team/b@1"]
    assert {one.id for one in result.findings} == {"record-as-file"}


@pytest.mark.parametrize(
    "content",
    [
        b'{"base":null,"kind":"version"}',
        b'{"base":null,"kind":"version","manifest":"sha256:../../etc","name":"a/b","number":1}',
        b'{"base":null,"kind":"version","name":"../../x"}',
        b'{"base":' + b"[" * 50_000 + b'"kind":"version"',
        b'{"base":null,"kind":"version","schema":99}',
    ],
)
def test_a_record_that_cannot_be_read_is_named(registry, tmp_path, content):
    registry.push(make_adapter(tmp_path / "a"), "team/a")
    digest = plant(registry, content)
    lose_catalog(registry)

    result = registry.fsck(rebuild=True)

    assert result.made == ("team/a@1",)
    assert ("odd-record", digest) in findings(result)


def test_foreign_blobs_are_passed_over(registry, tmp_path):
    registry.push(make_adapter(tmp_path / "a"), "team/a")
    for content in (b"", b"x" * 100, b'{"base":1}', json.dumps({"kind": "version"}).encode(), b"\xff\xfe"):
        plant(registry, content)
    lose_catalog(registry)

    result = registry.fsck(rebuild=True)

    assert result.made == ("team/a@1",)
    assert findings(result) == set()


def test_a_record_without_its_manifest_keeps_its_number(registry, tmp_path):
    registry.push(make_adapter(tmp_path / "a"), "team/a")
    missing = "sha256:" + "5" * 64
    plant(registry, record_bytes(VersionRecord("team/a", 5, missing)))
    lose_catalog(registry)

    result = registry.fsck(rebuild=True)

    assert {("lost-manifest", missing), ("lost-version", "team/a@5")} <= findings(result)
    assert registry.push(make_adapter(tmp_path / "b", 1), "team/a").ref == "team/a@6"


def test_a_version_whose_files_are_lost_comes_back_freed_and_is_named(registry, tmp_path):
    made = registry.push(make_adapter(tmp_path / "a"), "team/a")
    weights = next(one.sha256 for one in registry.show(made.ref).files if one.path.endswith("safetensors"))
    registry._handle.store.delete(weights)
    lose_catalog(registry)

    result = registry.fsck(rebuild=True)

    assert findings(result) == {("lost-files", "team/a@1")}
    assert registry.show("team/a@1").digest == made.digest
    assert registry.push(tmp_path / "a", "team/a").ref == "team/a@1"
    assert registry.fsck().status == "pass"


def test_wrong_bytes_are_named_and_not_used(registry, tmp_path):
    made = registry.push(make_adapter(tmp_path / "a"), "team/a")
    weights = next(one.sha256 for one in registry.show(made.ref).files if one.path.endswith("safetensors"))
    path = registry.settings.blobs / "sha256" / weights[7:9] / weights[7:]
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    lose_catalog(registry)

    result = registry.fsck(rebuild=True)

    assert ("lost-files", "team/a@1") in findings(result)
    assert ("wrong-bytes", weights) in findings(result)


def test_records_that_make_a_circle_give_no_circle(registry, tmp_path):
    one = registry.push(make_adapter(tmp_path / "a"), "team/a")
    two = registry.push(make_adapter(tmp_path / "b", 1), "team/b", parents=["team/a@1"])
    said = json.loads(
        registry._handle.store.read_bytes(rows(registry, select(Version.record_digest).order_by(Version.id))[0][0])
    )
    said |= {
        "sequence": 9,
        "parents": [{"digest": two.digest, "relation": "finetuned_from", "weight": None, "ref": None}],
    }
    from registry.values.strictjson import canonical_json

    plant(registry, canonical_json(said))
    lose_catalog(registry)

    result = registry.fsck(rebuild=True)

    assert len(lineage(registry)) == 1
    assert {name for name, _ in findings(result)} == {"lineage-circle"}
    assert registry.show("team/a@1").digest == one.digest


def test_of_two_records_of_one_number_the_content_pushed_again_elsewhere_gives_way(registry, tmp_path):
    """A push that died before its commit left a record of number 1; another took the number, and it was tried again."""
    registry.push(make_adapter(tmp_path / "a"), "team/a")
    two = registry.push(make_adapter(tmp_path / "b", 1), "team/a")
    rival = plant(registry, record_bytes(VersionRecord("team/a", 1, two.digest)))
    lose_catalog(registry)

    result = registry.fsck(rebuild=True)

    assert registry.show("team/a@2").digest == two.digest
    assert findings(result) == {("rival-record", rival)}


def test_records_of_the_first_release_are_enough(registry, tmp_path):
    """They have no summary, origin, sequence or facts of a base (P10)."""
    made = registry.push(make_adapter(tmp_path / "a"), "team/a")
    child = registry.push(make_adapter(tmp_path / "b", 1), "team/b", parents=["team/a@1"])
    for (digest,) in rows(registry, select(Version.record_digest)):
        said = json.loads(registry._handle.store.read_bytes(digest))
        registry._handle.store.delete(digest)
        for key in ("sequence", "summary", "origin", "report"):
            del said[key]
        del said["base"]["facts"]
        for parent in said["parents"]:
            del parent["ref"]
        plant(registry, json.dumps(said, sort_keys=True, separators=(",", ":")).encode())
    lose_catalog(registry)

    result = registry.fsck(rebuild=True)

    assert sorted(result.made) == ["team/a@1", "team/b@1"]
    assert result.status == "pass"
    assert (registry.show("team/a@1").digest, registry.show("team/b@1").digest) == (made.digest, child.digest)
    assert [edge[:5] for edge in lineage(registry)] == [("b", 1, "finetuned_from", "a", 1)]


def test_who_said_what_of_a_version_comes_back_with_it(registry, tmp_path):
    """Of one whose files were freed too; what is not in the record (metrics) is not."""
    folder = make_adapter(tmp_path / "a", 1)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    registry.push(folder, "team/a", run_id="run-1")
    registry.push(make_adapter(tmp_path / "b", 2), "team/a", data_digest="sha256:d")
    registry.push(make_adapter(tmp_path / "c", 3), "team/a")
    registry.push(tmp_path / "c", "team/a", licence="apache-2.0")
    registry.remove("team/a@2")
    registry.gc(grace="0")
    lose_catalog(registry)

    assert registry.fsck(rebuild=True).status == "pass"

    found = {number: registry.show(f"team/a@{number}").sources for number in (1, 2, 3)}
    assert {number: {key: one[key] for key in one if key != "pushed_by"} for number, one in found.items()} == {
        1: {"licence": "README.md", "run_id": "flag"},
        2: {"data_digest": "flag"},
        3: {"licence": "flag"},
    }
