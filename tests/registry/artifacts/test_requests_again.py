"""The same request after something happened: to names, to the folders around it, to what it was made from."""

import json
import os
import shutil

import pytest

from engine.errors import DestinationError, RefusedError
from registry.errors import ConflictError, CorruptError, NotFoundError, UsageError
from tests.registries import make_adapter, make_base
from tests.registry.artifacts import world


def merged(registry, to, *refs, **options):
    return registry.materialize(refs or ("team/a",), kind="merged", to=to, **options)


# Where it may go


@pytest.mark.parametrize("place", ["base/out", "base/below/out", "link/out"])
def test_a_result_inside_its_base_is_refused(registry, tmp_path, place):
    """It would be one of the files that the next result takes over, and no request would be the same again."""
    (tmp_path / "link").symlink_to(tmp_path / "base")
    before = world.bytes_of(tmp_path / "base")

    with pytest.raises(UsageError, match="out is inside the base's folder"):
        merged(registry, tmp_path / place)

    assert world.bytes_of(tmp_path / "base") == before
    assert merged(registry, tmp_path / "base.out").artifact == 1


@pytest.mark.parametrize("place", ["base", "a"])
def test_a_result_in_the_place_of_what_it_is_made_of_is_refused(registry, tmp_path, place):
    before = world.bytes_of(tmp_path / place)

    with pytest.raises(ConflictError, match="exists"):
        merged(registry, tmp_path / place)

    assert world.bytes_of(tmp_path / place) == before


@pytest.mark.parametrize("name", ["sp ace", "日本", "new\nline", "esc\x1b[31m", "\u202egnp", "\udcff\udcfe", "x" * 255])
def test_a_place_may_have_any_name_of_a_folder(registry, tmp_path, name):
    merged(registry, tmp_path / name)
    merged(registry, tmp_path / "plain")

    assert merged(registry, tmp_path / name).reused == "kept"
    assert [place.path for place in registry.artifacts()[0].places][-1] == str(tmp_path / name)
    assert registry.verify_artifact(str(tmp_path / name)).artifact == 1


@pytest.mark.parametrize("target", ["somewhere", "nowhere"])
def test_a_link_is_never_a_place(registry, tmp_path, target):
    (tmp_path / "somewhere").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / target)

    for _ in range(2):
        with pytest.raises(ConflictError, match="out exists"):
            merged(registry, tmp_path / "out")
        merged(registry, tmp_path / "elsewhere")  # from now on the artifact is known

    assert list((tmp_path / "somewhere").iterdir()) == []


def test_a_place_that_nothing_can_be_written_to_is_named_as_it_was_asked_for(registry):
    with pytest.raises(DestinationError, match=r"^/proc/out: No such file or directory"):
        merged(registry, "/proc/out")

    assert registry.artifacts() == ()


def test_an_empty_folder_is_taken(registry, tmp_path):
    (tmp_path / "out").mkdir()

    assert merged(registry, tmp_path / "out").reused is None


@pytest.mark.parametrize("verb", ["materialize", "rebuild", "pull", "convert", "rewrite"])
@pytest.mark.parametrize("place", ["home/out", "home/blobs/out", "home/pulled/out"])
def test_no_verb_writes_into_the_registrys_own_folders(registry, tmp_path, verb, place):
    if verb == "rebuild":
        merged(registry, tmp_path / "one")
    to = tmp_path / place
    before = sorted((tmp_path / "home").rglob("*"))
    asked = {
        "materialize": lambda: merged(registry, to),
        "rebuild": lambda: registry.rebuild_artifact(1, to=to),
        "pull": lambda: registry.pull("team/a", to=to),
        "convert": lambda: registry.convert(tmp_path / "a", to=to),
        "rewrite": lambda: registry.convert("team/a", to=to, for_engine="vllm"),
    }

    with pytest.raises(UsageError, match="out is inside the registry's own folder"):
        asked[verb]()

    assert sorted((tmp_path / "home").rglob("*")) == before


def test_equal_weights_are_one_artifact_however_they_are_written(registry, tmp_path):
    found = {
        merged(registry, tmp_path / "out", "team/a", "team/b", weights=weights, dry_run=True).recipe_digest
        for weights in ([1, 0], [1.0, 0.0], [True, -0.0])
    }

    assert len(found) == 1


@pytest.mark.parametrize(
    ("kind", "name"), [("merged", "😀" * 63), ("hotswap", "😀" * 63), ("peft", "日" * 85), ("merged", "x" * 255)]
)
def test_what_is_written_beside_the_longest_name_is_counted_in_bytes(registry, tmp_path, kind, name):
    """Built, copied, and moved aside."""
    for place in (tmp_path / name, tmp_path / "twice" / name):
        registry.materialize(["team/a"], kind=kind, to=place, store=True)
        assert registry.verify_artifact(str(place)).artifact == 1

    for file in (tmp_path / name).iterdir():
        world.flip(file)
    again = registry.materialize(["team/a"], kind=kind, to=tmp_path / name)

    assert again.reused == "copied"
    assert len([path for path in tmp_path.iterdir() if path.name.endswith(".changed-1")]) == 1


# Dry runs


def test_a_dry_run_refuses_a_place_that_is_taken_as_the_run_would(registry, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ConflictError, match="mine exists"):
        merged(registry, tmp_path / "mine", dry_run=True)

    merged(registry, tmp_path / "out")
    assert merged(registry, tmp_path / "out", dry_run=True).path is None
    with pytest.raises(ConflictError, match="mine exists"):
        merged(registry, tmp_path / "mine", dry_run=True)


def test_a_dry_run_of_a_plain_folder_refuses_what_the_run_refuses(registry, tmp_path):
    def padded(rank, **options):
        return registry.materialize(["team/a"], kind="peft", to=tmp_path / "out", rank=rank, **options)

    with pytest.raises(RefusedError, match="rank 1: expected at least 2"):
        padded(1, dry_run=True)

    wanted = padded(8, dry_run=True)
    assert (wanted.path, wanted.artifact, (tmp_path / "out").exists()) == (None, None, False)
    assert padded(8).size == wanted.size
    assert list((tmp_path / "home" / "tmp").glob("*")) == []


def test_a_dry_run_of_images_tells_their_class_and_makes_no_artifact(registry, tmp_path):
    def images(*adapters, **options):
        return registry.materialize(adapters, kind="hotswap", to=tmp_path / "out", **options)

    make_adapter(tmp_path / "odd", 3, peft_type="LOHA")
    with pytest.raises(RefusedError):
        images("team/a", tmp_path / "odd", dry_run=True)

    wanted = images("team/a", "team/b", dry_run=True)
    assert registry.artifacts() == ()
    made = images("team/a", "team/b")
    assert (made.report["class"], made.size) == (wanted.report["class"], wanted.size)


# What happens in between


def test_an_alias_that_moved_means_another_artifact_and_back_the_first(registry, tmp_path):
    registry.push(make_adapter(tmp_path / "newer", seed=9), "team/a")
    registry.set_alias("team/a@1", "prod")
    first = merged(registry, tmp_path / "one", "team/a@prod")

    registry.set_alias("team/a@2", "prod")
    second = merged(registry, tmp_path / "two", "team/a@prod")
    with pytest.raises(ConflictError, match="one exists and holds something else"):
        merged(registry, tmp_path / "one", "team/a@prod")

    registry.set_alias("team/a@1", "prod")
    third = merged(registry, tmp_path / "three", "team/a@prod")
    assert (first.artifact, second.artifact, third.artifact, third.reused) == (1, 2, 1, "copied")


def test_a_folder_that_moved_is_no_place_until_it_is_asked_for(registry, tmp_path):
    merged(registry, tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "moved")

    assert [place.state for place in registry.artifacts()[0].places] == ["missing"]
    assert merged(registry, tmp_path / "moved").reused == "kept"
    assert [place.state for place in registry.artifacts()[0].places] == ["missing", "unchanged"]
    assert merged(registry, tmp_path / "out").reused == "copied"


def test_a_base_with_other_weights_at_the_same_path_is_another_artifact(registry, tmp_path):
    first = merged(registry, tmp_path / "one", base=tmp_path / "base")
    make_base(tmp_path / "base", seed=7)

    second = merged(registry, tmp_path / "two", base=tmp_path / "base")

    assert (first.artifact, second.artifact, second.reused) == (1, 2, None)
    assert [finding.rule for finding in second.findings] == ["base-differs"]
    assert (tmp_path / "one" / "model.safetensors").read_bytes() != (
        tmp_path / "two" / "model.safetensors"
    ).read_bytes()


def test_every_file_of_a_base_that_a_result_takes_over_counts(registry, tmp_path):
    digests = {merged(registry, tmp_path / "0").recipe_digest}
    for number, name in enumerate(("tokenizer.json", "generation_config.json", "modeling_own.py"), 1):
        (tmp_path / "base" / name).write_text("{}" if name.endswith("json") else "x = 1\n")
        digests.add(merged(registry, tmp_path / str(number)).recipe_digest)
        assert (tmp_path / str(number) / name).exists()

    assert len(digests) == 4


@pytest.mark.parametrize("name", ["README.md", ".cache"])
def test_a_card_or_a_hidden_file_beside_a_base_changes_nothing(registry, tmp_path, name):
    first = merged(registry, tmp_path / "one")
    (tmp_path / "base" / name).write_text("of the base\n")

    assert merged(registry, tmp_path / "two").artifact == first.artifact


@pytest.mark.parametrize(("name", "counts"), [("original/params.pth", False), ("original/params.json", True)])
def test_of_weights_below_a_base_nothing_counts_but_their_size_if_they_are_huge(
    registry, tmp_path, monkeypatch, name, counts
):
    """Some repositories keep the makers' own checkpoint in a folder: tens of GB that no result takes over."""
    monkeypatch.setattr("registry.artifacts.basefolder._LARGEST", 10)
    (tmp_path / "base" / "original").mkdir()
    digests = set()
    for content in ("a" * 20, "b" * 20):
        (tmp_path / "base" / name).write_text(content)
        digests.add(merged(registry, tmp_path / f"out-{content[0]}").recipe_digest)

    assert len(digests) == 1 + counts


def test_a_result_calls_its_base_by_the_oldest_name_here(registry, tmp_path):
    first = merged(registry, tmp_path / "one")
    registry.add_base(tmp_path / "base", names=["team/newer", "team/newest"])

    second = merged(registry, tmp_path / "two", base="team/newest")

    assert (first.recipe["base"]["name"], second.recipe["base"]["name"]) == ("team/base", "team/base")
    assert second.artifact == first.artifact


def test_a_version_that_is_gone_leaves_its_artifact_where_it_lies(registry, tmp_path):
    merged(registry, tmp_path / "out")
    registry.remove("team/a")
    registry.gc(grace="0")

    with pytest.raises(NotFoundError, match="team/a"):
        merged(registry, tmp_path / "out")
    assert registry.verify_artifact(1).path == tmp_path / "out"
    assert registry.artifacts()[0].parents == ("team/a@1",)

    registry.push(tmp_path / "a", "team/a")
    assert merged(registry, tmp_path / "out").reused == "kept"


def test_a_folder_changed_twice_is_moved_aside_twice(registry, tmp_path):
    merged(registry, tmp_path / "out")
    for content in ("one", "two"):
        (tmp_path / "out" / "config.json").write_text(content)
        merged(registry, tmp_path / "out")

    texts = [(tmp_path / f"out.changed-{number}" / "config.json").read_text() for number in (1, 2)]
    assert texts == ["one", "two"]


@pytest.mark.parametrize("spoil", ["truncate", "fifo", "link", "folder"])
def test_whatever_became_of_a_weight_file_the_artifact_is_made_again(registry, tmp_path, spoil):
    digest = merged(registry, tmp_path / "out").digest
    weights = tmp_path / "out" / "model.safetensors"
    if spoil == "truncate":
        os.truncate(weights, 100)
    else:
        weights.rename(tmp_path / "away")
        {"fifo": os.mkfifo, "link": lambda one: one.symlink_to(tmp_path / "away"), "folder": os.mkdir}[spoil](weights)
    with pytest.raises(CorruptError, match=r"model\.safetensors"):
        registry.verify_artifact(1)

    again = merged(registry, tmp_path / "out")

    assert (again.reused, again.digest) == (None, digest)
    assert registry.verify_artifact(1).status == "pass"


def test_a_file_in_the_place_of_the_folder_is_told_and_left(registry, tmp_path):
    merged(registry, tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").write_text("mine")

    with pytest.raises(ConflictError, match="out exists and is no folder"):
        merged(registry, tmp_path / "out")

    assert (tmp_path / "out").read_text() == "mine"


# What a stranger's list may say


def test_a_list_that_tells_of_a_file_outside_is_wrong_bytes(registry, tmp_path):
    merged(registry, tmp_path / "out")
    shutil.copytree(tmp_path / "out", tmp_path / "given")
    place = tmp_path / "given" / "materialize.json"
    content = json.loads(place.read_text())
    content["files"]["../a/adapter_config.json"] = {"size": 1, "sha256": "0"}
    place.write_text(json.dumps(content, indent=2) + "\n")

    with pytest.raises(Exception, match=r"materialize\.json: wrong bytes") as caught:
        registry.verify_artifact(str(tmp_path / "given"))

    assert caught.value.exit_code == 6


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors.index.json", "code/other.safetensors"])
def test_a_file_that_would_be_loaded_instead_makes_a_folder_another_one(registry, tmp_path, name):
    out = tmp_path / "out"
    merged(registry, out)
    before = world.bytes_of(out)
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_bytes(b"{}")

    again = merged(registry, out)

    assert again.reused != "kept"
    assert world.bytes_of(out) == before
    assert (tmp_path / "out.changed-1" / name).read_bytes() == b"{}"
