"""materialize.json lies beside weights that strangers may have made: what it says is checked before it is followed."""

import json
import os

import numpy as np
import pytest
from safetensors.numpy import save_file

from engine.errors import BaseError, WrongBytesError
from engine.materialize.folder import manifest as manifests
from engine.materialize.folder.config import as_json
from engine.materialize.folder.manifest import MANIFEST, Manifest, read_manifest, rendered
from engine.materialize.recipe import canonical_digest
from engine.materialize.tasks.sums import Sums
from engine.materialize.verify import verify

WEIGHT = {"file": "model.safetensors", "dtype": "F32", "shape": [2], "sha256": "0" * 64}
CONFIG = {"size": 2, "sha256": "1" * 64}
CHANGE = {"module": "layer", "sums": [1.0, 0.0, 0.0, 2, 0, 2]}
TRUTH = {
    "schema": 1,
    "plan": "sha256:aa",
    "recipe": {"dtype": None},
    "tensors": {"layer.weight": WEIGHT},
    "changes": {"layer.weight": CHANGE},
    "files": {"code/own.py": CONFIG, "config.json": CONFIG},
}


def write(folder, **lies):
    """A manifest whose own digest is right, whatever it says."""
    content = {**TRUTH, **lies}
    (folder / MANIFEST).write_bytes(as_json({**content, "digest": canonical_digest(content)}))
    return folder


def tensor(**lies):
    return {"tensors": {"layer.weight": {**WEIGHT, **lies}}}


def file(name="config.json", **lies):
    return {"files": {name: {**CONFIG, **lies}}}


def without(row, key):
    return {name: value for name, value in row.items() if name != key}


def test_what_was_written_is_read_back(tmp_path):
    found = read_manifest(write(tmp_path))

    assert found == Manifest(
        "sha256:aa",
        {"dtype": None},
        {"layer.weight": WEIGHT},
        {"layer.weight": ("layer", Sums(1.0, 0.0, 0.0, 2, 0, 2))},
        {"config.json": CONFIG, "code/own.py": CONFIG},
    )
    assert rendered(found) == (tmp_path / MANIFEST).read_bytes()


@pytest.mark.parametrize(
    "lies",
    [
        tensor(file=".."),
        tensor(file="."),
        tensor(file=""),
        tensor(file="../model.safetensors"),
        tensor(file="/etc/passwd"),
        tensor(file="below/model.safetensors"),
        tensor(file="a\0b"),
        tensor(file=5),
        tensor(file=None),
        tensor(dtype="F31"),
        tensor(dtype=["F32"]),
        tensor(shape="2"),
        tensor(shape=[-1]),
        tensor(shape=[2.0]),
        tensor(shape=[True]),
        tensor(shape=[2**62]),
        tensor(shape=[10**4000]),
        tensor(shape=None),
        tensor(sha256=5),
        tensor(sha256=None),
        {"tensors": {"layer.weight": without(WEIGHT, "sha256")}},
        {"tensors": {"layer.weight": without(WEIGHT, "file")}},
        {"tensors": {"layer.weight": None}},
        {"tensors": []},
        file("/etc/passwd"),
        file("//etc/passwd"),
        file("../config.json"),
        file("code/../../config.json"),
        file("a\0b"),
        file(""),
        file(size=-1),
        file(size=True),
        file(size="2"),
        file(size=2**62),
        file(sha256=None),
        {"files": {"config.json": without(CONFIG, "sha256")}},
        {"files": None},
        {"changes": {"layer.weight": {"module": "layer", "sums": [1.0] * 7}}},
        {"changes": {"layer.weight": {"module": "layer", "sums": 3}}},
        {"changes": {"layer.weight": {"module": "layer", "sums": [1.0, 0.0]}}},
        {"changes": {"layer.weight": without(CHANGE, "module")}},
        {"changes": None},
        {"schema": "1"},
        {"schema": True},
        {"schema": None},
    ],
)
def test_a_lie_is_wrong_bytes_although_its_own_digest_is_right(tmp_path, lies):
    with pytest.raises(WrongBytesError, match=r"materialize\.json"):
        read_manifest(write(tmp_path, **lies))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"tensors":' + b"9" * 5000 + b"}",
        b'{"tensors":{},"files":{},"changes":{},"plan":NaN}',
        json.dumps({**TRUTH, "plan": "\ud800", "digest": ""}).encode(),
        json.dumps({**TRUTH, **tensor(file="\ud800"), "digest": ""}).encode(),
    ],
)
def test_bytes_that_no_run_wrote_are_wrong(tmp_path, content):
    (tmp_path / MANIFEST).write_bytes(content)

    with pytest.raises(WrongBytesError, match=r"materialize\.json"):
        read_manifest(tmp_path)


def test_one_changed_byte_is_told_with_both_digests(tmp_path):
    write(tmp_path)
    content = (tmp_path / MANIFEST).read_bytes()
    (tmp_path / MANIFEST).write_bytes(content.replace(b"sha256:aa", b"sha256:ab"))

    with pytest.raises(WrongBytesError) as caught:
        read_manifest(tmp_path)

    ((subject, expected, actual),) = caught.value.wrong
    assert subject == MANIFEST
    assert (len(expected), len(actual), expected != actual) == (64, 64, True)


def test_one_that_cannot_be_read_is_told_and_nothing_is_waited_for(tmp_path):
    place = tmp_path / MANIFEST
    with pytest.raises(BaseError, match="missing; was the folder made by materialize"):
        read_manifest(tmp_path)

    os.mkfifo(place)
    with pytest.raises(BaseError, match="not-regular"):
        read_manifest(tmp_path)

    place.unlink()
    place.symlink_to("/etc/hostname")
    with pytest.raises(BaseError, match="not-regular"):
        read_manifest(tmp_path)

    place.unlink()
    place.mkdir()
    with pytest.raises(BaseError, match="not-regular"):
        read_manifest(tmp_path)


def test_one_that_is_larger_than_any_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(manifests, "_LARGEST", len(write(tmp_path).joinpath(MANIFEST).read_bytes()))
    assert read_manifest(tmp_path).plan == "sha256:aa"

    with (tmp_path / MANIFEST).open("ab") as stream:
        stream.write(b" ")
    with pytest.raises(WrongBytesError, match=r"expected at most \d+ bytes, found more"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["n" * 300, "\x1b[31m", "ｎ"])
def test_a_weight_file_that_cannot_be_there_is_told_as_wrong(tmp_path, name):
    save_file({"layer.weight": np.zeros(2, np.float32)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(WrongBytesError) as caught:
        verify(write(tmp_path, **tensor(file=name)))

    assert (name, "112 bytes") in {(subject, expected) for subject, expected, _ in caught.value.wrong}
