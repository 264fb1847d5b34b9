"""Artifacts listed, shown, verified, rebuilt and forgotten."""

from __future__ import annotations

import json
import shutil

import click
import pytest
from sqlalchemy import select

from engine.errors import WrongBytesError
from registry.cli.words import SOURCES
from registry.completion import artifacts
from registry.errors import ConflictError, CorruptError, NotFoundError, UnavailableError, UsageError
from registry.models import Artifact, AuditEntry
from tests.registries import make_base
from tests.registry.artifacts import world


@pytest.fixture
def made(registry, tmp_path):
    """Artifact 1 of team/a at ./out."""
    merged(registry, tmp_path / "out")
    return registry


def merged(registry, to, *refs, **options):
    return registry.materialize(refs or ("team/a",), kind="merged", to=to, **options)


def sabotaged(monkeypatch, tensor):
    """Builds whose engine tells another digest of one tensor from now on."""
    from registry import operations

    honest = operations.materialize_merged

    def other(parts, base, to, **options):
        done = honest(parts, base, to, **options)
        tensors = {name: dict(one) for name, one in done.tensors.items()}
        tensors[tensor]["sha256"] = "0" * 64
        return operations.MadeFiles(tensors, done.report)

    monkeypatch.setattr("registry.artifacts.build.materialize_merged", other)


# Listed and shown


def test_an_empty_registry_has_none(registry):
    assert registry.artifacts() == ()


def test_the_list_names_what_it_was_made_from_and_where_it_lies(made, tmp_path):
    merged(made, tmp_path / "both", "team/b", "team/a@1", weights=[1.0, 2.0])

    first, second = made.artifacts()

    assert (first.artifact, first.kind, first.base, first.parents) == (1, "merged", "team/base", ("team/a@1",))
    assert second.parents == ("team/b@1", "team/a@1")
    assert [(place.path, place.state) for place in first.places] == [(str(tmp_path / "out"), "unchanged")]
    assert first.size == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert (first.actor, first.stored, first.stored_bytes) == ("tester", False, 0)


def test_a_place_tells_by_sizes_and_times_whether_it_changed(made, tmp_path):
    config = tmp_path / "out" / "config.json"
    config.write_text(config.read_text() + " ")
    assert [place.state for place in made.artifacts()[0].places] == ["changed"]

    world.delete(tmp_path / "out")
    assert [place.state for place in made.artifacts()[0].places] == ["missing"]


def test_another_hosts_place_is_elsewhere_and_used_only_where_it_can_be_reached(made, tmp_path, monkeypatch):
    monkeypatch.setattr("registry.artifacts.places.socket.gethostname", lambda: "other")
    assert [place.state for place in made.artifacts()[0].places] == ["elsewhere"]

    assert merged(made, tmp_path / "shared").reused == "copied"

    states = [(place.host == "other", place.state) for place in made.artifacts()[0].places]
    assert states == [(False, "elsewhere"), (True, "unchanged")]


def test_show_tells_every_tensor_and_file(made):
    found = made.artifact(1)

    assert sorted(found.tensors) == [
        "model.embed_tokens.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.norm.weight",
    ]
    assert {digest[:7] for digest in found.tensors.values()} == {"sha256:"}
    assert [(one["path"], one["tensors"]) for one in found.files] == [
        ("README.md", 0),
        ("config.json", 0),
        ("materialize.json", 0),
        ("model.safetensors", 4),
    ]
    assert len(found.report["per_module"]) == 2


def test_one_is_named_by_number_digest_recipe_or_folder(made, tmp_path):
    info = made.artifacts()[0]
    names = [1, "1", info.digest, info.digest[:20], info.recipe_digest[:19], str(tmp_path / "out"), f"{tmp_path}/./out"]

    assert [made.artifact(name).info for name in names] == [info] * len(names)


def test_a_link_names_what_it_leads_to(made, tmp_path):
    (tmp_path / "link").symlink_to("out")
    (tmp_path / "above").symlink_to(tmp_path)

    for name in ("link", "above/out", "above/link"):
        assert made.artifact(str(tmp_path / name)).info.artifact == 1
        assert made.verify_artifact(str(tmp_path / name)).artifact == 1
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(NotFoundError, match="link: there is none"):
        made.artifact(str(tmp_path / "link"))


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("2", NotFoundError),
        ("sha256:" + "0" * 12, NotFoundError),
        ("/no/such/folder", NotFoundError),
        ("sha256:00", UsageError),
        ("team/a", UsageError),
        ("-1", UsageError),
        ("9" * 30, UsageError),
        ("sha256:%%%%%%%%%%%%", NotFoundError),
    ],
)
def test_what_names_none_is_told(made, name, error):
    with pytest.raises(error, match="artifact"):
        made.artifact(name)


def test_a_folder_without_a_slash_before_it_is_told_how_a_path_begins(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(UsageError) as caught:
        made.artifact("out")

    assert caught.value.hint == "adapters artifacts list; a path starts with /, ./, ../ or ~"
    assert made.artifact("./out").info.artifact == 1


def test_a_digest_that_several_begin_with_is_refused(registry, tmp_path):
    for engine in ("vllm", "vllm:max_lora_rank=64"):  # two recipes, the same bytes
        registry.materialize(["team/a"], kind="peft", to=tmp_path / engine[-4:], rank=8, for_engine=engine)
    first, second = registry.artifacts()
    assert first.digest == second.digest

    with pytest.raises(ConflictError, match="several begin like this: 1, 2"):
        registry.artifact(first.digest)


# Verified


def test_verify_hashes_every_tensor(made, tmp_path):
    found = made.verify_artifact(1)

    assert (found.status, found.files, found.tensors, found.path) == ("pass", 4, 4, tmp_path / "out")
    assert found.digest == made.artifacts()[0].digest


@pytest.mark.parametrize(
    ("offset", "subject"), [(-1, "model.safetensors: tensor model.norm.weight"), (9, "model.safetensors")]
)
def test_verify_names_the_tensor_or_file_that_is_wrong(made, tmp_path, offset, subject):
    world.flip(tmp_path / "out" / "model.safetensors", offset)

    with pytest.raises(CorruptError) as caught:
        made.verify_artifact(str(tmp_path / "out"))

    assert caught.value.subject == f"{tmp_path / 'out'}/{subject}"
    assert (caught.value.exit_code, caught.value.hint) == (6, "adapters artifacts rebuild 1")


def test_verify_finds_files_that_are_too_many_too_few_or_too_long(made, tmp_path):
    extra, config = tmp_path / "out" / "pytorch_model.bin", tmp_path / "out" / "config.json"
    extra.write_bytes(b"x")
    with pytest.raises(CorruptError, match=r"pytorch_model\.bin: wrong bytes: expected no such file"):
        made.verify_artifact(1)
    extra.unlink()

    content = config.read_bytes()
    config.write_bytes(content + b" ")
    with pytest.raises(CorruptError, match=rf"config\.json: .*expected {len(content)} bytes, found {len(content) + 1}"):
        made.verify_artifact(1)

    config.unlink()
    with pytest.raises(CorruptError, match=r"config\.json: wrong bytes: expected a file, found No such file"):
        made.verify_artifact(1)


@pytest.mark.parametrize("name", [".DS_Store", "__pycache__/modeling.cpython-311.pyc", "notes.txt"])
def test_what_no_loader_takes_may_lie_beside_the_files(made, tmp_path, name):
    stray = tmp_path / "out" / name
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"x")

    assert made.verify_artifact(1).artifact == 1


def test_a_link_in_the_place_of_a_file_is_not_followed(made, tmp_path):
    config = tmp_path / "out" / "config.json"
    config.rename(tmp_path / "moved.json")
    config.symlink_to(tmp_path / "moved.json")

    with pytest.raises(CorruptError, match=r"config\.json"):
        made.verify_artifact(1)


def test_verify_tells_where_no_place_is_left(made, tmp_path):
    world.delete(tmp_path / "out")

    with pytest.raises(NotFoundError, match="none of its folders is here"):
        made.verify_artifact(1)


def test_a_verified_checkpoint_is_measured_again_on_request(made):
    report = made.artifact(1).report

    again = made.verify_artifact(1, measure=True).report

    assert [one["name"] for one in again["per_module"]] == [one["name"] for one in report["per_module"]]
    assert again["cosine"] == pytest.approx(report["cosine"], abs=1e-6)
    assert again["swallowed"] == pytest.approx(report["swallowed"], abs=1e-3)


def test_what_cannot_be_measured_is_told(made, tmp_path):
    made.materialize(["team/a"], kind="peft", to=tmp_path / "plain")
    with pytest.raises(UsageError, match="artifact 2 is peft: only merged weights are measured"):
        made.verify_artifact(2, measure=True)
    made.remove("team/a")
    with pytest.raises(NotFoundError, match="made from what is gone: team/a@1"):
        made.verify_artifact(1, measure=True)


def test_a_checkpoint_that_the_catalog_does_not_know_is_held_against_its_own_list(made, tmp_path):
    shutil.copytree(tmp_path / "out", tmp_path / "copy")
    found = made.verify_artifact(str(tmp_path / "copy"))
    assert (found.artifact, found.status, found.tensors) == (None, "pass", 4)
    with pytest.raises(NotFoundError, match="the catalog does not know what it was made from"):
        made.verify_artifact(str(tmp_path / "copy"), measure=True)

    world.flip(tmp_path / "copy" / "model.safetensors")
    with pytest.raises(WrongBytesError, match=r"model\.norm\.weight") as caught:
        made.verify_artifact(str(tmp_path / "copy"))
    assert caught.value.exit_code == 6


# Rebuilt


def test_a_rebuild_of_an_intact_artifact_is_compared_and_dropped(made, tmp_path):
    before = {path: path.stat().st_ino for path in (tmp_path / "out").iterdir()}

    found = made.rebuild_artifact(1)

    assert (found.path, found.digest) == (None, made.artifacts()[0].digest)
    assert {path: path.stat().st_ino for path in (tmp_path / "out").iterdir()} == before
    assert list((tmp_path / "home" / "artifacts").glob("*.tmp")) == []


def test_a_rebuild_goes_to_a_place_that_is_missing_or_changed(made, tmp_path):
    right = world.bytes_of(tmp_path / "out")
    world.delete(tmp_path / "out")
    assert made.rebuild_artifact(1).path == tmp_path / "out"
    assert world.bytes_of(tmp_path / "out") == right

    world.flip(tmp_path / "out" / "model.safetensors")
    found = made.rebuild_artifact(1)

    assert world.bytes_of(tmp_path / "out") == right
    assert found.notes == (f"{tmp_path / 'out'} was changed: it is {tmp_path / 'out.changed-1'} now",)
    assert made.verify_artifact(1).status == "pass"


def test_a_rebuild_goes_to_a_folder_that_is_given(made, tmp_path):
    assert made.rebuild_artifact(1, to=tmp_path / "again").path == tmp_path / "again"

    assert world.bytes_of(tmp_path / "again") == world.bytes_of(tmp_path / "out")
    assert [place.path for place in made.artifacts()[0].places] == [str(tmp_path / "out"), str(tmp_path / "again")]
    with pytest.raises(ConflictError, match="again exists already"):
        made.rebuild_artifact(1, to=tmp_path / "again")


def test_every_option_of_the_recipe_is_carried_out_again(registry, tmp_path):
    merged(
        registry,
        tmp_path / "out",
        "team/b",
        "team/a",
        weights=[0.3, -1.5],
        dtype="bf16",
        rounding="stochastic",
        seed=7,
        shard_size="200B",
    )

    assert registry.rebuild_artifact(1, to=tmp_path / "again").digest == registry.artifacts()[0].digest
    assert world.bytes_of(tmp_path / "again") == world.bytes_of(tmp_path / "out")


def test_another_seed_gives_other_bytes_and_another_recipe(registry, tmp_path):
    first, second = (
        merged(registry, tmp_path / f"out{seed}", dtype="bf16", rounding="stochastic", seed=seed) for seed in (1, 2)
    )

    assert first.recipe_digest != second.recipe_digest
    assert first.digest != second.digest


def test_a_dtype_has_one_name_in_a_recipe(registry, tmp_path):
    digests = {merged(registry, tmp_path / name, dtype=name).recipe_digest for name in ("bf16", "bfloat16", "BF16")}

    assert len(digests) == 1


def test_a_rebuild_that_comes_out_otherwise_names_the_tensor(made, tmp_path, monkeypatch):
    before = world.bytes_of(tmp_path / "out")
    sabotaged(monkeypatch, "model.layers.0.self_attn.q_proj.weight")

    with pytest.raises(
        CorruptError, match=r"artifact 1: built again, .*tensor model\.layers\.0\.self_attn\.q_proj"
    ) as caught:
        made.rebuild_artifact(1, to=tmp_path / "again")

    assert caught.value.exit_code == 6
    assert "torch" in caught.value.hint
    assert not (tmp_path / "again").exists()
    assert world.bytes_of(tmp_path / "out") == before


def test_a_rebuild_names_the_version_that_was_deleted(made, tmp_path):
    digest = made.get("team/a").digest
    made.remove("team/a@1")
    assert [one.artifact for one in made.artifacts()] == [1]

    with pytest.raises(NotFoundError, match=rf"artifact 1: made from what is gone: team/a@1 \({digest}\)") as caught:
        made.rebuild_artifact(1)
    assert caught.value.exit_code == 4

    made.gc(grace="0")
    with pytest.raises(NotFoundError, match="team/a@1"):
        made.rebuild_artifact(1)
    assert made.verify_artifact(1).status == "pass"

    made.push(tmp_path / "a", "team/renamed")
    assert made.rebuild_artifact(1).digest == made.artifacts()[0].digest


def test_a_rebuild_names_the_base_that_is_gone_and_finds_one_that_moved(made, tmp_path):
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(NotFoundError, match="its base team/base is gone: no folder holds sha256:"):
        made.rebuild_artifact(1)

    make_base(tmp_path / "base", seed=9)
    with pytest.raises(NotFoundError, match="its base team/base is gone"):
        made.rebuild_artifact(1)

    made.add_base(tmp_path / "moved", names=["team/base"])
    assert made.rebuild_artifact(1).digest == made.artifacts()[0].digest


def test_a_folder_that_was_never_pushed_is_found_where_it_lay_unless_it_changed(registry, tmp_path):
    merged(registry, tmp_path / "out", tmp_path / "b", base="team/base")
    registry.remove("team/b@1")
    assert registry.rebuild_artifact(1).artifact == 1

    config = tmp_path / "b" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "lora_alpha": 8}))
    with pytest.raises(NotFoundError, match=r"made from what is gone: .*/b "):
        registry.rebuild_artifact(1)


# Forgotten


def test_rm_forgets_the_artifact_and_leaves_its_folder(made, tmp_path):
    found = made.remove_artifact(1)

    assert (found.artifact, found.deleted, found.kept) == (1, (), {str(tmp_path / "out"): "not asked for"})
    assert made.artifacts() == ()
    assert (tmp_path / "out" / "config.json").exists()
    for verb in (made.artifact, made.remove_artifact, made.verify_artifact, made.rebuild_artifact):
        with pytest.raises(NotFoundError, match="artifact 1: there is none"):
            verb(1)


def test_the_same_request_brings_a_forgotten_artifact_back(made, tmp_path):
    made.remove_artifact(1)

    again = merged(made, tmp_path / "out")

    assert (again.reused, again.artifact) == ("kept", 1)
    assert [place.path for place in made.artifacts()[0].places] == [str(tmp_path / "out")]


def test_rm_with_files_deletes_what_is_as_it_was_and_nothing_else(made, tmp_path):
    for name in ("changed", "beside"):
        merged(made, tmp_path / name)
    (tmp_path / "beside" / "notes.txt").write_text("mine")
    (tmp_path / "changed" / "config.json").write_text("{}")

    found = made.remove_artifact(1, files=True)

    assert found.deleted == (str(tmp_path / "out"),)
    assert found.kept == {
        str(tmp_path / "changed"): "changed",
        str(tmp_path / "beside"): "also holds notes.txt",
    }
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "beside" / "model.safetensors").exists()


@pytest.mark.parametrize("name", [".git/HEAD", ".env", "notes/.keep"])
def test_rm_with_files_deletes_no_hidden_file_of_someones(made, tmp_path, name):
    """Such a file makes the folder no other artifact, but it is not ours."""
    mine = tmp_path / "out" / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    assert made.verify_artifact(1).status == "pass"

    assert made.remove_artifact(1, files=True).kept == {str(tmp_path / "out"): f"also holds {name}"}
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("name", [".DS_Store", "__pycache__/modeling.pyc"])
def test_what_programs_leave_behind_keeps_no_folder(made, tmp_path, name):
    stray = tmp_path / "out" / name
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"x")

    assert made.remove_artifact(1, files=True).deleted == (str(tmp_path / "out"),)


@pytest.mark.parametrize("gone", [0, 1, 3, 4])
def test_rm_with_files_that_died_half_way_can_be_run_again(made, tmp_path, monkeypatch, gone):
    """The artifact is forgotten last; what is left of a folder is still known for its own."""

    def dies(folder):
        for path in sorted(folder.iterdir())[:gone]:
            path.unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("registry.artifacts.upkeep.discard_tree", dies)
        made.remove_artifact(1, files=True)
    assert [one.artifact for one in made.artifacts()] == [1]
    assert len(list((tmp_path / "out").iterdir())) == 4 - gone

    assert made.remove_artifact(1, files=True).deleted == (str(tmp_path / "out"),)
    assert (made.artifacts(), (tmp_path / "out").exists()) == ((), False)


def test_rm_with_files_that_may_not_delete_forgets_nothing(made, monkeypatch):
    def refuses(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    with monkeypatch.context() as patched, pytest.raises(UnavailableError, match="out: Permission denied"):
        patched.setattr("registry.artifacts.upkeep.discard_tree", refuses)
        made.remove_artifact(1, files=True)

    assert [one.artifact for one in made.artifacts()] == [1]


def test_rm_with_files_follows_no_link_to_a_folder_that_was_moved(made, tmp_path):
    (tmp_path / "out").rename(tmp_path / "moved")
    (tmp_path / "out").symlink_to(tmp_path / "moved")
    before = world.bytes_of(tmp_path / "moved")

    found = made.remove_artifact(1, files=True)

    assert (found.deleted, found.kept) == ((), {str(tmp_path / "out"): "is a link by now"})
    assert world.bytes_of(tmp_path / "moved") == before


def test_rm_with_files_passes_by_what_is_gone_and_what_is_another_hosts(made, tmp_path, monkeypatch):
    merged(made, tmp_path / "gone")
    world.delete(tmp_path / "gone")
    monkeypatch.setattr("registry.artifacts.places.socket.gethostname", lambda: "other")

    found = made.remove_artifact(1, files=True)

    assert found.kept == {str(tmp_path / "out"): "elsewhere", str(tmp_path / "gone"): "elsewhere"}
    assert (tmp_path / "out" / "config.json").exists()


def test_changes_are_in_the_audit_log(made):
    made.remove_artifact(1)

    with made._handle.database.reading() as session:
        query = select(AuditEntry.action, AuditEntry.subject, AuditEntry.actor).order_by(AuditEntry.id)
        entries = [tuple(row) for row in session.execute(query)]
        removed = session.scalars(select(Artifact.removed_at)).one()
    assert entries[-2:] == [("materialize", "artifact 1", "tester"), ("rm", "artifact 1", "tester")]
    assert removed is not None


def test_tab_offers_the_numbers_of_what_is_there(made, tmp_path):
    merged(made, tmp_path / "two", "team/b")
    made.remove_artifact(1)

    assert artifacts(made.settings) == ["2"]
    assert SOURCES["ARTIFACT"](made.settings, click.Context(click.Command("show")), "") == ["2"]
