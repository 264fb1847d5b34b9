"""What the files of a folder hold, piece by piece, and the first way in which a folder is not that."""

import hashlib
import json
import os

import numpy as np
import pytest
from safetensors.numpy import save_file

from registry.artifacts.contents import (
    Content,
    Piece,
    contents_digest,
    contents_of,
    difference,
    extra,
    files_of,
    ranges,
)
from registry.errors import CorruptError, UnavailableError

TENSORS = {"a": np.arange(6, dtype=np.float32), "b": np.ones((2, 2), np.float16), "none": np.zeros((0, 3), np.int8)}


def sha(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "made"
    (place / "code").mkdir(parents=True)
    save_file(TENSORS, place / "model.safetensors")
    (place / "config.json").write_bytes(b"{}")
    (place / "code" / "own.py").write_bytes(b"x = 1\n")
    (place / "empty.txt").write_bytes(b"")
    return place


def test_a_weight_file_is_its_header_and_its_tensors_any_other_one_piece(folder):
    found = {one.path: one for one in contents_of(folder)}

    assert sorted(found) == ["code/own.py", "config.json", "empty.txt", "model.safetensors"]
    assert found["config.json"].pieces == (Piece("", sha(b"{}"), 2),)
    assert found["code/own.py"].pieces == (Piece("", sha(b"x = 1\n"), 6),)
    assert found["empty.txt"].pieces == (Piece("", sha(b""), 0),)
    whole = (folder / "model.safetensors").read_bytes()
    header = whole[: 8 + int.from_bytes(whole[:8], "little")]
    pieces = {piece.name: piece for piece in found["model.safetensors"].pieces}
    assert pieces.pop("") == Piece("", sha(header), len(header))
    assert pieces == {name: Piece(name, sha(one.tobytes()), one.nbytes) for name, one in TENSORS.items()}


def test_the_pieces_of_a_file_are_all_of_it_in_order(folder):
    for content in contents_of(folder):
        whole = (folder / content.path).read_bytes()
        parts = [whole[start : start + piece.size] for piece, start in ranges(content)]
        assert b"".join(parts) == whole
        assert [sha(part) for part in parts] == [piece.sha256 for piece in content.pieces]
        assert content.size == len(whole)


def test_a_tensor_whose_digest_the_writer_told_is_not_read(folder):
    told = {("model.safetensors", "a"): sha(b"as told"), ("other.safetensors", "b"): sha(b"of another file")}

    pieces = {piece.name: piece.sha256 for piece in contents_of(folder, told)[-1].pieces}

    assert pieces["a"] == sha(b"as told")
    assert pieces["b"] == sha(TENSORS["b"].tobytes())


@pytest.mark.parametrize(
    "content",
    [
        b"short",
        (2**63).to_bytes(8, "little") + b"{}",
        (100).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"{}" + b"more than it says",
    ],
)
def test_a_weight_file_that_lies_is_one_piece(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)

    assert contents_of(tmp_path) == (Content("model.safetensors", (Piece("", sha(content), len(content)),)),)


def test_contents_survive_json_and_have_a_digest_that_no_order_of_files_changes(folder):
    contents = contents_of(folder)

    again = tuple(Content.of_json(json.loads(json.dumps(one.as_json()))) for one in contents)

    assert again == contents
    assert contents_digest(contents[::-1]) == contents_digest(contents)
    assert contents_digest(contents[1:]) != contents_digest(contents)
    assert contents[1].as_json() == ["config.json", [["", hashlib.sha256(b"{}").hexdigest(), 2]]]


def test_an_untouched_folder_differs_in_nothing_also_with_files_beside(folder):
    contents = contents_of(folder)
    (folder / "code" / "notes.txt").write_text("mine")
    (folder / "link").symlink_to(folder / "config.json")
    os.mkfifo(folder / "pipe")

    assert difference(folder, contents) is None
    assert extra(folder, contents) == ("code/notes.txt", "link", "pipe")


def rewritten(path, content):
    path.write_bytes(content)


def linked(path):
    path.rename(path.with_name("real"))
    path.symlink_to("real")


def piped(path):
    path.unlink()
    os.mkfifo(path)


SPOILT = {
    "a byte of a tensor": (
        lambda folder: flip(folder / "model.safetensors", -1),
        r"model\.safetensors: tensor b: wrong",
    ),
    "a byte of the header": (lambda folder: flip(folder / "model.safetensors", 10), r"model\.safetensors: wrong bytes"),
    "a byte of a text": (lambda folder: rewritten(folder / "config.json", b"[]"), r"config\.json: wrong bytes"),
    "one byte more": (lambda folder: rewritten(folder / "config.json", b"{} "), "expected 2 bytes, found 3 bytes"),
    "one byte less": (lambda folder: rewritten(folder / "config.json", b"{"), "expected 2 bytes, found 1 bytes"),
    "no file": (lambda folder: (folder / "empty.txt").unlink(), r"empty\.txt: wrong bytes: expected a file"),
    "a link": (lambda folder: linked(folder / "config.json"), r"config\.json: wrong bytes: expected a file"),
    "a pipe": (lambda folder: piped(folder / "config.json"), r"config\.json is not a regular file"),
    "a linked folder": (lambda folder: linked(folder / "code"), r"own\.py: wrong bytes: expected a file"),
}


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("what", SPOILT)
def test_what_is_not_as_recorded_is_named(folder, what):
    contents = contents_of(folder)
    spoil, message = SPOILT[what]

    spoil(folder)

    wrong = difference(folder, contents)
    assert isinstance(wrong, CorruptError)
    with pytest.raises(CorruptError, match=message):
        raise wrong


def test_a_folder_that_is_gone_differs_and_cannot_be_listed(folder, tmp_path):
    contents = contents_of(folder)

    assert difference(tmp_path / "none", contents) is not None
    with pytest.raises(UnavailableError, match="none: No such file"):
        contents_of(tmp_path / "none")
    with pytest.raises(UnavailableError, match="none: No such file"):
        extra(tmp_path / "none", contents)


def test_a_link_among_the_files_is_refused_when_they_are_recorded(folder):
    (folder / "link").symlink_to("config.json")

    assert sorted(files_of(folder)) == ["code/own.py", "config.json", "empty.txt", "link", "model.safetensors"]
    with pytest.raises(UnavailableError, match="link"):
        contents_of(folder)
