"""Convert: a folder appears whole or not at all, with everything that a push takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from engine.errors import NotLoadableError
from registry.api import Registry
from registry.conversions import convert as use_case
from registry.conversions.convert import convert
from registry.errors import ConflictError, IntakeError, UsageError
from tests.engine.convert.hostile import PICKLES
from tests.engine.convert.pickles import zipped
from tests.registries import factors, make_adapter, open_registry


@pytest.fixture
def old(tmp_path):
    """An adapter with pickled weights, a card, a chat template, and files that no version takes."""
    folder = make_adapter(tmp_path / "old", 1)
    (folder / "adapter_model.safetensors").unlink()
    torch.save({name: torch.from_numpy(one) for name, one in factors(1).items()}, folder / "adapter_model.bin")
    (folder / "README.md").write_text("a card")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool.jinja").write_text("{{ x }}")
    (folder / "training_args.bin").write_bytes(b"a pickle of someone's")
    (folder / "optimizer.pt").write_bytes(b"another")
    return folder


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def quick(monkeypatch):
    """Without torch: what is tested here is the folder around the weights."""

    def write(_source, out, *, path):
        shutil.copy(Path(path).parent / "sound", out)
        from engine.convert.pickled import Converted

        return Converted(4, out.stat().st_size, ())

    monkeypatch.setattr(use_case, "convert_pickled", write)


@pytest.fixture
def sound(old, tmp_path):
    made = make_adapter(tmp_path / "twin", 1)
    shutil.copy(made / "adapter_model.safetensors", old / "sound")
    return old


def test_the_new_folder_is_pushed_like_any_other(old, tmp_path):
    """The same tensors, so the same digest of tensors as the twin that was safetensors from the start."""
    registry = open_registry(tmp_path / "home")

    result = registry.convert(old, to=tmp_path / "new")

    assert result.path == tmp_path / "new"
    assert [(one.source, one.path, one.tensors) for one in result.converted] == [
        ("adapter_model.bin", "adapter_model.safetensors", 4)
    ]
    assert result.left_out == ("optimizer.pt", "training_args.bin")
    assert names(tmp_path / "new") == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "additional_chat_templates/tool.jinja",
    ]  # fmt: skip
    assert json.loads((tmp_path / "new" / "adapter_config.json").read_text())["r"] == 2
    twin = registry.push(make_adapter(tmp_path / "twin", 1), "team/twin")
    assert registry.push(tmp_path / "new", "team/new").tensors_digest == twin.tensors_digest


def test_nothing_is_asked_of_database_or_store(sound, tmp_path, quick):
    registry = Registry.open(home=tmp_path / "home", database_url="postgresql://nobody@127.0.0.1:1/none")

    registry.convert(sound, to=tmp_path / "new")

    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("what", ["file", "folder", "link", "broken link"])
def test_what_is_there_is_never_overwritten(sound, tmp_path, quick, what):
    target = tmp_path / "new"
    if what == "file":
        target.write_text("mine")
    elif what == "folder":
        target.mkdir()
        (target / "mine").write_text("mine")
    else:
        target.symlink_to(tmp_path / ("twin" if what == "link" else "nowhere"))

    with pytest.raises(ConflictError, match="exists already") as caught:
        convert(sound, target)

    assert caught.value.exit_code == 5
    assert not (tmp_path / "new" / "adapter_model.safetensors").exists() or what == "link"


def test_a_folder_that_was_filled_meanwhile_is_left_alone(sound, tmp_path, monkeypatch, quick):
    write = use_case.convert_pickled

    def slow(source, out, *, path):
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "mine").write_text("mine")
        return write(source, out, path=path)

    monkeypatch.setattr(use_case, "convert_pickled", slow)

    with pytest.raises(ConflictError, match="exists already"):
        convert(sound, tmp_path / "new")
    assert names(tmp_path / "new") == ["mine"]
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


def test_an_empty_folder_is_used(sound, tmp_path, quick):
    (tmp_path / "new").mkdir()

    convert(sound, tmp_path / "new")

    assert "adapter_model.safetensors" in names(tmp_path / "new")


def test_the_current_folder_is_not_pulled_away(sound, tmp_path, monkeypatch, quick):
    (tmp_path / "new").mkdir()
    monkeypatch.chdir(tmp_path / "new")

    with pytest.raises(ConflictError):
        convert(sound, Path())


def test_a_refused_pickle_leaves_nothing_behind(old, tmp_path):
    (old / "adapter_model.bin").write_bytes(zipped(PICKLES["GLOBAL os.system"][0]))

    with pytest.raises(NotLoadableError, match=r"old/adapter_model\.bin: not loadable here: .*os\.system"):
        convert(old, tmp_path / "new")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]


def test_a_link_instead_of_the_weights_is_refused(old, tmp_path):
    (old / "adapter_model.bin").rename(tmp_path / "real")
    (old / "adapter_model.bin").symlink_to(tmp_path / "real")

    with pytest.raises(IntakeError, match="is a symbolic link"):
        convert(old, tmp_path / "new")


def test_a_folder_with_safetensors_needs_no_converting(old, tmp_path):
    make_adapter(old, 1)

    with pytest.raises(IntakeError, match="nothing needs converting"):
        convert(old, tmp_path / "new")


@pytest.mark.parametrize("missing", ["adapter_model.bin", "adapter_config.json"])
def test_what_is_missing_is_named(old, tmp_path, missing):
    (old / missing).unlink()

    with pytest.raises(IntakeError, match=rf"no {missing} in it"):
        convert(old, tmp_path / "new")


def test_a_reference_is_no_folder(tmp_path):
    with pytest.raises(UsageError, match="expected a folder"):
        open_registry(tmp_path / "home").convert("team/sql", to=tmp_path / "new")
