"""What the store keeps of artifacts: shared once, given back byte for byte, spared by gc as long as one needs it."""

from __future__ import annotations

import json
import struct
from itertools import pairwise

import numpy as np
import pytest
from safetensors.numpy import save_file
from sqlalchemy import text

from registry.artifacts import rows, stored
from registry.artifacts.contents import contents_of
from registry.catalog.database import Database
from registry.errors import CorruptError, NotFoundError
from tests.registries import make_adapter, make_base, open_registry
from tests.registry.artifacts import world


@pytest.fixture
def shared(shared_registry, tmp_path):
    """A registry on each database with each kind of store, filled."""
    world.fill(shared_registry, tmp_path)
    return shared_registry


def merged(registry, to, *refs, **options):
    return registry.materialize(refs or ("team/a",), kind="merged", to=to, **options)


def blobs(registry):
    return {blob.digest: blob.size for blob in registry._handle.store.list()}


def large(folder, seed=0):
    """A base whose weights are blobs of their own: 128 KiB and 256 KiB, with small tensors between them."""
    draw = np.random.default_rng(seed).standard_normal
    tensors = {
        "model.embed_tokens.weight": draw((512, 64)),
        "model.layers.0.input_layernorm.weight": draw(64),
        "model.layers.0.mlp.up_proj.weight": draw((512, 128)),
        "model.layers.0.post_attention_layernorm.weight": draw(64),
        "model.layers.0.self_attn.q_proj.weight": draw((512, 128)),
        "model.norm.weight": draw(64),
    }
    folder.mkdir()
    save_file({name: value.astype(np.float32) for name, value in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    return folder


def large_adapter(folder, seed):
    draw = np.random.default_rng(seed).standard_normal
    name = "base_model.model.model.layers.0.mlp.up_proj"
    factors = {f"{name}.lora_A.weight": draw((2, 128)), f"{name}.lora_B.weight": draw((512, 2))}
    tensors = {key: value.astype(np.float32) for key, value in factors.items()}
    return make_adapter(folder, tensors=tensors, target_modules=["up_proj"], base_model_name_or_path="team/large")


def test_a_folder_comes_back_from_the_store_with_the_same_files_and_bytes(shared, tmp_path):
    merged(shared, tmp_path / "out", store=True, shard_size="200B")
    right = world.bytes_of(tmp_path / "out")
    assert len([name for name in right if name.endswith(".safetensors")]) > 1
    world.delete(tmp_path / "out")

    again = merged(shared, tmp_path / "again", shard_size="200B")

    assert (again.reused, again.stored) == ("restored", True)
    assert world.bytes_of(tmp_path / "again") == right


def test_gc_spares_what_an_artifact_keeps_and_frees_it_after_rm(shared, tmp_path):
    before = blobs(shared)
    merged(shared, tmp_path / "out", store=True)
    kept = blobs(shared).keys() - before.keys()
    assert kept

    shared.gc(grace="0")
    assert blobs(shared).keys() >= kept
    assert shared.fsck().findings == ()

    shared.remove_artifact(1)
    assert shared.gc(grace="0", dry_run=True).blobs == len(kept)
    freed = shared.gc(grace="0")
    assert (freed.blobs, set(freed.removed)) == (len(kept), kept)
    assert blobs(shared) == before
    assert shared.fsck().findings == ()


def test_ten_merges_of_one_base_cost_it_once_and_what_each_changed(tmp_path):
    """Beside the changed tensor that is the card and the list of digests, which name the adapter."""
    registry = open_registry(tmp_path / "home")
    base, sizes, told = large(tmp_path / "large"), [], []
    for number in range(10):
        adapter, out = large_adapter(tmp_path / f"x{number}", number), tmp_path / f"out{number}"
        merged(registry, out, adapter, base=base, store=True)
        sizes.append(sum(blobs(registry).values()))
        told.append(sum((out / name).stat().st_size for name in ("README.md", "materialize.json")))

    whole = sum(len(content) for content in world.bytes_of(tmp_path / "out0").values())
    changed = 512 * 128 * 4
    assert sizes[0] == whole
    assert [later - earlier for earlier, later in pairwise(sizes)] == [changed + more for more in told[1:]]
    assert {one.stored_bytes - more for one, more in zip(registry.artifacts(), told, strict=True)} == {whole - told[0]}
    registry.close()


def test_what_one_artifact_shares_with_another_stays_when_that_goes(registry, tmp_path):
    for name in ("a", "b"):
        merged(registry, tmp_path / f"m-{name}", f"team/{name}", store=True)
    right = world.bytes_of(tmp_path / "m-b")

    registry.remove_artifact(1, files=True)
    registry.gc(grace="0")
    world.delete(tmp_path / "m-b")

    assert not (tmp_path / "m-a").exists()
    assert merged(registry, tmp_path / "m-b", "team/b").reused == "restored"
    assert world.bytes_of(tmp_path / "m-b") == right


def test_an_artifact_may_be_stored_later_and_twice(registry, tmp_path):
    first = merged(registry, tmp_path / "out")
    assert (first.stored, registry.artifacts()[0].stored_bytes) == (False, 0)

    second = merged(registry, tmp_path / "out", store=True)
    third = merged(registry, tmp_path / "out", store=True)

    assert (second.reused, second.stored, third.stored) == ("kept", True, True)
    with registry._handle.database.reading() as session:
        assert session.execute(text("SELECT count(*) FROM leases")).scalar() == 1


def test_a_wrong_blob_is_never_given_out_and_the_artifact_is_built_again(registry, tmp_path):
    merged(registry, tmp_path / "out", store=True)
    right = world.bytes_of(tmp_path / "out")
    world.delete(tmp_path / "out")
    config = next(one for one in registry.artifact(1).files if one["path"] == "config.json")
    blob = next(blob for blob, size in blobs(registry).items() if size == config["size"])
    place = registry._handle.store.path(blob)
    place.chmod(0o644)
    world.flip(place)

    again = merged(registry, tmp_path / "out")

    assert again.reused is None
    assert f"expected {blob}" in again.notes[0]
    assert world.bytes_of(tmp_path / "out") == right
    assert registry.fsck().findings == ()  # the store has it right again
    world.delete(tmp_path / "out")
    assert merged(registry, tmp_path / "out").reused == "restored"


def test_a_folder_that_changed_meanwhile_is_not_stored(registry, tmp_path):
    merged(registry, tmp_path / "out")
    handle = registry._handle
    with handle.database.reading() as session:
        known = rows.get(session, "1")
    world.flip(tmp_path / "out" / "config.json")
    before = blobs(registry)

    with pytest.raises(CorruptError, match=r"config\.json"):
        stored.keep(handle, known, tmp_path / "out", progress=lambda *_: None)

    assert registry.artifacts()[0].stored is False
    assert blobs(registry) == before
    with handle.database.reading() as session:
        assert session.execute(text("SELECT count(*) FROM leases")).scalar() == 0


def shaped(folder, sizes):
    """The contents of a file with tensors of these many bytes, in this order."""
    entries, data, start = {}, b"", 0
    for number, size in enumerate(sizes):
        entries[f"t{number}"] = {"dtype": "U8", "shape": [size], "data_offsets": [start, start + size]}
        data += bytes([number % 251]) * size
        start += size
    header = json.dumps(entries).encode()
    folder.mkdir()
    (folder / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data)
    (content,) = contents_of(folder)
    return content


@pytest.mark.parametrize(
    ("sizes", "runs"),
    [
        ([100, 200, 300], [600]),
        ([70_000, 100, 200, 70_000], [70_000, 300, 70_000]),
        ([100, 65_536, 100], [100, 65_536, 100]),
        ([65_535, 65_535], [131_070]),
        ([60_000] * 20, [1_020_000, 180_000]),
        ([0, 100, 0, 100], [200]),
        ([70_000, 0], [70_000]),
    ],
)
def test_small_neighbours_share_a_blob_up_to_a_mebibyte(tmp_path, sizes, runs):
    content = shaped(tmp_path / "x", sizes)

    found = list(stored._stretches(tmp_path / "x", content))

    header, *rest = [one.size for one in found]
    assert header == content.pieces[0].size
    assert rest == runs
    assert [one.start for one in found] == [0, *(header + sum(runs[:n]) for n in range(len(runs)))]
    assert sum(one.size for one in found) == content.size


def test_the_lease_of_an_artifact_never_runs_out(registry, tmp_path):
    merged(registry, tmp_path / "out", store=True)
    with registry._handle.database.reading() as session:
        rows = session.execute(text("SELECT owner, CAST(expires_at AS VARCHAR(19)) FROM leases")).all()
    ((owner, ends),) = rows
    assert owner == f"artifact:{registry.artifacts()[0].recipe_digest}"
    assert ends == "9999-12-31 00:00:00"


@pytest.mark.parametrize(
    ("damage", "rule", "severity"),
    [
        ("DELETE FROM lease_blobs; DELETE FROM leases", "unheld-artifact", "error"),
        ("UPDATE artifacts SET lease_id = NULL", "endless-lease", "warning"),
        ("DELETE FROM blobs WHERE digest = '{blob}'", "artifact-without-blob", "error"),
    ],
)
def test_fsck_sees_artifacts_and_leases_that_do_not_hold_together(registry, tmp_path, damage, rule, severity):
    merged(registry, tmp_path / "out", store=True)
    with registry._handle.database.reading() as session:
        blob = session.execute(text("SELECT digest FROM lease_blobs")).scalar()

    def do(session):
        for statement in damage.split("; "):
            session.execute(text(statement.format(blob=blob)))

    registry._handle.database.write(do)

    found = [(finding.id, finding.severity) for finding in registry.fsck().findings]
    assert (rule, severity) in found


def test_fsck_sees_a_stored_tensor_that_is_missing_or_wrong(registry, tmp_path):
    before = blobs(registry)
    merged(registry, tmp_path / "out", store=True)
    gone, wrong = sorted(blobs(registry).keys() - before.keys())[:2]
    registry._handle.store.delete(gone)
    place = registry._handle.store.path(wrong)
    place.chmod(0o644)
    world.flip(place)

    found = {(finding.id, finding.subject) for finding in registry.fsck().findings}

    assert {("missing-blob", gone), ("wrong-bytes", wrong)} <= found


def test_an_artifact_in_a_postgres_catalog_and_bucket_is_restored_by_another_machine(postgres_url, s3_url, tmp_path):
    """Another home: nothing on its disk, not even the place."""
    one = open_registry(tmp_path / "one", postgres_url, store_url=s3_url)
    world.fill(one, tmp_path)
    merged(one, tmp_path / "out", store=True)
    right = world.bytes_of(tmp_path / "out")
    world.delete(tmp_path / "out")
    other = open_registry(tmp_path / "other", postgres_url, store_url=s3_url)

    assert merged(other, tmp_path / "there").reused == "restored"

    assert world.bytes_of(tmp_path / "there") == right
    for registry in (one, other):
        registry.close()


def test_make_base_and_database_are_what_the_tests_think(database_url, tmp_path):
    """The figures above hold for float32 tensors of 40, 24, 32 and 4 numbers."""
    (content,) = (one for one in contents_of(make_base(tmp_path / "base")) if one.path.endswith("safetensors"))
    assert sorted(piece.size for piece in content.pieces[1:]) == [16, 96, 128, 160]
    assert Database(database_url).is_sqlite is database_url.startswith("sqlite")


# Rebuilt although what it was made from is gone


def test_what_the_store_has_comes_back_without_its_adapter_and_base(registry, tmp_path):
    made = merged(registry, tmp_path / "out", store=True)
    right = world.bytes_of(tmp_path / "out")
    registry.remove("team/a")
    registry.gc(grace="0")
    (tmp_path / "base").rename(tmp_path / "gone")
    world.delete(tmp_path / "out")

    found = registry.rebuild_artifact(1)

    assert (found.path, found.restored, found.digest) == (tmp_path / "out", True, made.digest)
    assert found.notes[0].startswith("not built: artifact 1: made from what is gone: team/a@1")
    assert world.bytes_of(tmp_path / "out") == right
    assert registry.rebuild_artifact(1, to=tmp_path / "two").restored
    assert [place.path for place in registry.artifacts()[0].places] == [str(tmp_path / "out"), str(tmp_path / "two")]
    with pytest.raises(NotFoundError, match="made from what is gone"):  # nothing to put back, nothing to compare with
        registry.rebuild_artifact(1)


def test_a_changed_folder_is_left_when_only_the_store_could_replace_it(registry, tmp_path):
    merged(registry, tmp_path / "out", store=True)
    registry.remove("team/a")
    (tmp_path / "out" / "config.json").write_text("mine")

    with pytest.raises(NotFoundError, match="made from what is gone") as caught:
        registry.rebuild_artifact(1)

    assert caught.value.hint == "the store has it: adapters artifacts rebuild 1 --to DIR"
    assert (tmp_path / "out" / "config.json").read_text() == "mine"
    assert registry.rebuild_artifact(1, to=tmp_path / "two").restored


def test_wrong_bytes_in_the_store_are_never_put_back(registry, tmp_path):
    merged(registry, tmp_path / "out", store=True)
    registry.remove("team/a")
    world.delete(tmp_path / "out")
    largest = max((tmp_path / "home" / "blobs").rglob("*"), key=lambda one: one.stat().st_size * one.is_file())
    largest.chmod(0o644)
    world.flip(largest)

    with pytest.raises(CorruptError):
        registry.rebuild_artifact(1)

    assert not (tmp_path / "out").exists()
