"""Rewriting for an engine: a folder that appears whole, or a version that says what it comes from."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from engine.errors import OptionError
from registry.conversions import rewrite as use_case
from registry.errors import ConflictError, FindingsError, IntakeError, NotFoundError, UsageError
from registry.results import Edge
from tests.registries import factors, make_adapter, make_base, open_registry

Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"


@pytest.fixture
def registry(tmp_path):
    return open_registry(tmp_path / "home")


@pytest.fixture
def rslora(tmp_path):
    """rank 2, lora_alpha 3: scaling 3 / sqrt(2); a card travels along, an optimizer does not."""
    folder = make_adapter(tmp_path / "rslora", 1, use_rslora=True, lora_alpha=3)
    (folder / "README.md").write_text("---\nlicense: mit\n---\na card")
    (folder / "optimizer.pt").write_bytes(b"a pickle")
    return folder


def config(folder):
    return json.loads((folder / "adapter_config.json").read_text())


def test_a_folder_is_rewritten_into_a_new_one(registry, rslora, tmp_path):
    result = registry.convert(rslora, for_engine="llamacpp", to=tmp_path / "new")

    assert (result.path, result.target, result.rewrites) == (tmp_path / "new", "llamacpp", ("scales",))
    assert (result.rank, result.rounded, result.largest_change) == (2, 0, 0.0)
    assert (result.ref, result.created, result.left_out) == (None, False, ("optimizer.pt",))
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    assert (config(tmp_path / "new")["use_rslora"], config(tmp_path / "new")["lora_alpha"]) == (
        False, pytest.approx(4.242640687119285),
    )  # fmt: skip
    found = load_file(tmp_path / "new" / "adapter_model.safetensors")
    assert all(np.array_equal(found[name], one) for name, one in factors(1).items())
    assert not (tmp_path / "home").exists()


def test_a_version_becomes_the_next_one_of_a_name(registry, rslora, tmp_path):
    registry.add_base(make_base(tmp_path / "base"), names=["team/base"])
    parent = registry.push(rslora, "team/a", aliases=["prod"], base="team/base")

    result = registry.convert(
        "team/a@prod",
        for_engine="ollama",
        into="team/a-ollama",
        aliases=["prod"],
        tags={"k": "v"},
        message="for ollama",
    )

    assert (result.ref, result.created, result.path) == ("team/a-ollama@1", True, None)
    found = registry.get("team/a-ollama@prod")
    assert (found.message, found.tags, found.base, found.licence) == ("for ollama", {"k": "v"}, "team/base", "mit")
    assert Edge("team/a-ollama@1", "team/a@1", "converted_from") in found.lineage.edges
    body = found.recipe
    assert {
        key: body[key] for key in ("schema", "method", "for", "limits", "rewrites", "rank", "parent", "initial")
    } == {
        "schema": 1,
        "method": "rewrite",
        "for": "ollama",
        "limits": {},
        "rewrites": ["scales"],
        "rank": None,
        "parent": parent.digest,
        "initial": None,
    }
    assert sorted(body["tool"]) == ["adapter-registry", "numpy"]
    assert {finding.severity for finding in registry.check("team/a-ollama").findings} & {"error"} == set()


def test_again_it_is_the_version_that_is_there(registry, rslora):
    registry.push(rslora, "team/a")

    first, again = (registry.convert("team/a", for_engine="ollama", into="team/b") for _ in range(2))

    assert (first.ref, first.created) == ("team/b@1", True)
    assert (again.ref, again.created) == ("team/b@1", False)


def test_all_that_a_version_holds_travels_along(registry, rslora, tmp_path):
    (rslora / "extra").mkdir()
    (rslora / "extra" / "notes.txt").write_text("note")
    registry.push(rslora, "team/a", include=["extra/*"])

    registry.convert("team/a", for_engine="ollama", to=tmp_path / "new")
    registry.convert("team/a", for_engine="ollama", into="team/b")

    assert (tmp_path / "new" / "extra" / "notes.txt").read_text() == "note"
    assert "extra/notes.txt" in [file.path for file in registry.get("team/b").files]


def test_a_folder_has_no_parent_and_a_note_says_so(registry, rslora):
    result = registry.convert(rslora, for_engine="ollama", into="team/b")

    assert result.notes == (f"{rslora} is no version here: no parent was recorded",)
    assert [edge.relation for edge in registry.get("team/b").lineage.edges] == ["base"]
    assert registry.get("team/b").recipe["parent"].startswith("sha256:")


def test_the_initial_adapter_may_be_a_version_too(registry, tmp_path):
    """B A - B0 A0, at twice the rank."""
    begun = registry.push(make_adapter(tmp_path / "begun", 1, init_lora_weights="pissa"), "team/begun")
    registry.push(make_adapter(tmp_path / "a", 2, init_lora_weights="pissa"), "team/a")

    result = registry.convert("team/a", for_engine="vllm", initial="team/begun", into="team/plain")

    assert (result.rewrites, result.rank, result.rounded) == (("initial",), 4, 0)
    assert registry.get("team/plain").recipe["initial"] == begun.digest
    found = load_file(registry.pull("team/plain") / "adapter_model.safetensors")
    ours, theirs = factors(2), factors(1)
    assert np.array_equal(found[Q.format("A")], np.concatenate([ours[Q.format("A")], theirs[Q.format("A")]]))
    assert np.array_equal(found[Q.format("B")], np.concatenate([ours[Q.format("B")], -theirs[Q.format("B")]], axis=1))


def test_what_cannot_be_rewritten_leaves_nothing_behind(registry, tmp_path):
    folder = make_adapter(tmp_path / "dora", 1, use_dora=True)
    before = sorted(path.name for path in tmp_path.iterdir())

    with pytest.raises(FindingsError, match=r"refused by .*vllm-dora") as caught:
        registry.convert(folder, for_engine="vllm", to=tmp_path / "new")
    with pytest.raises(FindingsError):
        registry.convert(folder, for_engine="vllm", into="team/b")

    assert {finding.target for finding in caught.value.findings} == {str(folder)}
    assert [name for name in before if name != "home"] == ["dora"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "home") == ["dora"]
    assert registry.list() == []


def test_a_write_that_fails_leaves_nothing_behind(registry, rslora, tmp_path, monkeypatch):
    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(use_case, "sync_tree", full)

    with pytest.raises(OSError, match="No space"):
        registry.convert(rslora, for_engine="ollama", to=tmp_path / "new")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["rslora"]


def test_a_folder_that_is_there_is_not_overwritten(registry, rslora, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine").write_text("mine")

    with pytest.raises(ConflictError, match="exists already"):
        registry.convert(rslora, for_engine="ollama", to=tmp_path / "new")

    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mine"]


def test_a_link_in_place_of_the_card_is_refused(registry, rslora, tmp_path):
    (rslora / "README.md").unlink()
    (rslora / "README.md").symlink_to("/etc/passwd")

    with pytest.raises(IntakeError, match="symbolic link"):
        registry.convert(rslora, for_engine="ollama", to=tmp_path / "new")


WRONG = {
    "no place": ({"for_engine": "vllm"}, UsageError, "expected a folder or a name"),
    "two places": ({"for_engine": "vllm", "to": "./x", "into": "a/b"}, UsageError, "and not both"),
    "an unknown engine": ({"for_engine": "nope", "to": "./x"}, OptionError, "engine 'nope'"),
    "an unknown release": ({"for_engine": "vllm@9", "to": "./x"}, OptionError, "the table covers"),
    "a rank of 0": ({"for_engine": "vllm", "to": "./x", "rank": 0}, UsageError, "rank 0"),
    "a label for a folder": ({"for_engine": "vllm", "to": "./x", "message": "m"}, UsageError, "message"),
    "a name without an engine": ({"into": "a/b"}, UsageError, "rewrite an adapter for an engine"),
    "a rank without an engine": ({"to": "./x", "rank": 4}, UsageError, "rewrite an adapter for an engine"),
    "nothing": ({}, UsageError, "a folder to write to"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_asked_wrongly_is_named(registry, rslora, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    options, error, named = WRONG[case]

    with pytest.raises(error, match=named):
        registry.convert(rslora, **options)

    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["rslora"]


def test_an_unknown_version_is_not_found(registry, tmp_path):
    with pytest.raises(NotFoundError):
        registry.convert("team/nope", for_engine="vllm", to=tmp_path / "new")


def test_no_torch_is_needed(tmp_path, rslora):
    """In a process where importing torch fails."""
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from registry import Registry\n"
        f"r = Registry.open(home={str(tmp_path / 'home')!r})\n"
        f"print(r.convert({str(rslora)!r}, for_engine='ollama', to={str(tmp_path / 'new')!r}).rewrites)"
    )

    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert run.stdout == "('scales',)\n"


def other_shapes(folder):
    """A base whose q_proj is one wider than `make_adapter`'s factors."""
    from safetensors.numpy import save_file

    from tests.registries import BASE_TENSORS

    folder.mkdir()
    wrong = {**BASE_TENSORS, "model.layers.0.self_attn.q_proj.weight": (7, 4)}
    save_file({name: np.ones(shape, np.float32) for name, shape in wrong.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


def test_a_folder_is_held_to_the_base_that_is_given(registry, rslora, tmp_path):
    wrong = other_shapes(tmp_path / "wrong")

    with pytest.raises(FindingsError) as refused:
        registry.convert(rslora, for_engine="llamacpp", base=wrong, to=tmp_path / "new")
    assert [finding.rule for finding in refused.value.findings] == ["base-shape"]
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "home").exists()
    registry.convert(rslora, for_engine="llamacpp", base=make_base(tmp_path / "base"), to=tmp_path / "new")


def test_a_folder_is_held_to_the_base_that_its_config_names_where_that_is_known(registry, rslora, tmp_path):
    registry.add_base(other_shapes(tmp_path / "wrong"), names=["team/base"])

    with pytest.raises(FindingsError) as refused:
        registry.convert(rslora, for_engine="llamacpp", to=tmp_path / "new")
    assert [finding.rule for finding in refused.value.findings] == ["base-shape"]


def test_a_given_base_goes_before_that_of_the_version_and_of_the_config(registry, rslora, tmp_path):
    registry.add_base(other_shapes(tmp_path / "wrong"), names=["team/wrong"])
    registry.add_base(make_base(tmp_path / "base"), names=["team/base"])
    registry.push(rslora, "team/a")

    for source in (rslora, "team/a"):
        with pytest.raises(FindingsError, match="refused by base-shape"):
            registry.convert(source, for_engine="llamacpp", base="team/wrong", to=tmp_path / "new")
    with pytest.raises(NotFoundError, match="team/none"):
        registry.convert(rslora, for_engine="llamacpp", base="team/none", to=tmp_path / "new")
    made = registry.convert("team/a", for_engine="llamacpp", base="team/base", into="team/b")
    assert registry.get(made.ref).base == "team/base"


def test_a_base_without_an_engine_is_a_usage_error(registry, rslora, tmp_path):
    with pytest.raises(UsageError, match="base"):
        registry.convert(rslora, base="team/base", to=tmp_path / "new")
