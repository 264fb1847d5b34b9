"""What a file of images is: any reader of safetensors opens it, every image begins with a page, the map says the rest."""

import hashlib
import json
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from engine.errors import HeaderError, UnreadableError, WrongBytesError
from engine.format.imageset import read_imageset
from engine.materialize.hotswap import write_images
from tests.engine.materialize.hotswap.sets import folders, small

FIRST = {"r": 2, "lora_alpha": 3, "target_modules": ["q_proj"]}
SECOND = {"r": 3, "lora_alpha": 5, "target_modules": ["v_proj"], "use_dora": True}


@pytest.fixture
def written(tmp_path):
    """The folders and the file of a set of two."""
    adapters = folders(tmp_path, small(), FIRST, SECOND)
    write_images(adapters, tmp_path / "set.safetensors", target_rank=4)
    return adapters, tmp_path / "set.safetensors"


def test_safetensors_reads_a_flat_tensor_for_each_adapter(written):
    """A (4, 32) and B (32, 4) of q, those of v (16 wide) and its magnitude and gain: 2 * 128 + 128 + 64 + 16 + 16."""
    _, file = written

    with safe_open(file, "pt") as opened:
        assert sorted(opened.keys()) == ["a", "b"]
        assert [opened.get_tensor(name).dtype for name in "ab"] == [torch.float32] * 2
        assert [opened.get_tensor(name).shape for name in "ab"] == [(1024,)] * 2
        said = json.loads(opened.metadata()["hotswap.class"])
    assert (said["dtype"], said["target_rank"], said["numbers"]) == ("F32", 4, 480)


def test_the_map_finds_every_factor_and_zeros_around_it(written):
    """Any tool: bytes from the offset on, in the shape, the adapter's own rank in the corner."""
    adapters, file = written
    tensors = load_file(file)
    with safe_open(file, "pt") as opened:
        modules = json.loads(opened.metadata()["hotswap.class"])["modules"]
    path = "model.layers.0.self_attn.q_proj"
    own = load_file(adapters["a"] / "adapter_model.safetensors")

    place = modules[path]["sections"]["A"]
    found = tensors["a"][place["offset"] // 4 :][: 4 * 32].view(place["shape"])

    assert torch.equal(found[:2], own[f"base_model.model.{path}.lora_A.weight"])
    assert not found[2:].any()
    assert modules["model.layers.0.self_attn.v_proj"]["roles"] == ["A", "B", "magnitude"]
    assert modules["model.layers.0.self_attn.v_proj"]["kind"] == "linear"
    total = sum(tensor.count_nonzero() for tensor in own.values())
    assert tensors["a"].count_nonzero() == total


def test_images_begin_with_pages_and_hash_to_what_is_said(written):
    _, file = written
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    said = json.loads(header["__metadata__"]["hotswap.images"])

    assert (8 + length) % 4096 == 0
    for name in "ab":
        start, end = header[name]["data_offsets"]
        assert (8 + length + start) % 4096 == 0
        assert (
            said[name]["sha256"] == f"sha256:{hashlib.sha256(data[8 + length + start : 8 + length + end]).hexdigest()}"
        )
    assert said["a"]["config"]["lora_alpha"] == 3
    assert json.loads(header["__metadata__"]["hotswap.tensors"])[said["b"]["tensors"]][0][1:] == ["F32", [3, 32]]


def test_the_same_adapters_give_the_same_file(written, tmp_path):
    adapters, file = written

    write_images(adapters, tmp_path / "again", target_rank=4)

    assert (tmp_path / "again").read_bytes() == file.read_bytes()


def class_of(tmp_path, *settings, **options):
    """The name of the class of a set."""
    place = tmp_path / str(len(list(tmp_path.iterdir())))
    place.mkdir()
    return write_images(folders(place, small(), *settings), place / "set", **options).swap_class.digest


def test_a_class_is_named_by_modules_roles_rank_and_dtype_alone(tmp_path):
    one = class_of(tmp_path, FIRST, SECOND, target_rank=4)

    assert class_of(tmp_path, SECOND | {"r": 1, "use_rslora": True}, FIRST | {"lora_alpha": 9}, target_rank=4) == one
    others = [
        class_of(tmp_path, FIRST, SECOND, target_rank=5),
        class_of(tmp_path, FIRST, SECOND, target_rank=4, dtype="bf16"),
        class_of(tmp_path, FIRST, SECOND | {"use_dora": False}, target_rank=4),
        class_of(tmp_path, FIRST, target_rank=4),
    ]
    assert len({one, *others}) == 5


def test_without_a_target_the_largest_rank_is_taken_and_the_narrowest_dtype_that_holds_all(tmp_path):
    adapters = folders(tmp_path, small(), FIRST, SECOND | {"rank_pattern": {"v_proj": 6}})
    from safetensors.torch import save_file

    for path in adapters.values():
        weights = path / "adapter_model.safetensors"
        save_file({name: tensor.half() for name, tensor in load_file(weights).items()}, weights)

    images = write_images(adapters, tmp_path / "set")

    assert (images.swap_class.target_rank, images.swap_class.dtype) == (6, "F16")
    assert all(one.exact for one in images.images.values())


def test_a_map_of_which_a_byte_flipped_is_never_believed(written):
    _, file = written
    data = file.read_bytes()
    at = data.index(b"lora_alpha") + 13
    file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])

    with pytest.raises(WrongBytesError, match=r"set.safetensors: map: wrong bytes: expected sha256:"):
        read_imageset(file)


def rewritten(file, change):
    """The file with another map, its digest made anew: what somebody might make by hand."""
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header["__metadata__"])
    told = header["__metadata__"]
    texts = "".join(told.get(key, "") for key in ("hotswap.class", "hotswap.tensors", "hotswap.images"))
    told["hotswap.digest"] = f"sha256:{hashlib.sha256(texts.encode()).hexdigest()}"
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (length - len(text))
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return file


MADE_UP = {
    "another version": (lambda told: told.update({"hotswap": "2"}), "hot-swap images of version '2'; expected version 1"),
    "no map": (lambda told: told.update({"hotswap.class": "{}"}), "its map cannot be read: KeyError"),
    "no JSON": (lambda told: told.update({"hotswap.images": "x"}), "its map cannot be read: JSONDecodeError"),
    "no such image": (lambda told: told.update({"hotswap.images": "{}"}), "its map cannot be read: KeyError 'a'"),
    "no such table": (lambda told: told.update({"hotswap.tensors": "[]"}), "its map cannot be read: IndexError"),
    "more numbers than there are": (
        lambda told: told.update({"hotswap.class": told["hotswap.class"].replace('"numbers":480', '"numbers":4800')}),
        "image 'a' is shorter than its map",
    ),
    "endlessly many numbers": (
        lambda told: told.update({"hotswap.class": told["hotswap.class"].replace('"numbers":480', '"numbers":Infinity')}),
        "its map cannot be read: OverflowError",
    ),
    "not a number": (
        lambda told: told.update({"hotswap.class": told["hotswap.class"].replace('"numbers":480', '"numbers":NaN')}),
        "its map cannot be read: ValueError",
    ),
    "a list for a class": (lambda told: told.update({"hotswap.class": "[]"}), "its map cannot be read: TypeError"),
    "a map without a bottom": (
        lambda told: told.update({"hotswap.images": "[" * 200_000}),
        "its map cannot be read: RecursionError",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MADE_UP)
def test_a_map_that_makes_no_sense_is_refused_by_name(case, written):
    change, told = MADE_UP[case]

    with pytest.raises(UnreadableError, match=told):
        read_imageset(rewritten(written[1], change))


def test_a_file_without_pages_is_refused(written, tmp_path):
    """The same map over data that begin elsewhere."""
    data = written[1].read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    shifted = struct.pack("<Q", length + 8) + data[8 : 8 + length] + b" " * 8 + data[8 + length :]
    (tmp_path / "shifted").write_bytes(shifted)

    with pytest.raises(UnreadableError, match="which no page does"):
        read_imageset(tmp_path / "shifted")


def test_other_files_are_told_from_images(written, tmp_path):
    adapters, file = written

    with pytest.raises(UnreadableError, match="holds no hot-swap images"):
        read_imageset(adapters["a"] / "adapter_model.safetensors")
    (tmp_path / "short").write_bytes(file.read_bytes()[:-1])
    with pytest.raises(HeaderError, match="truncated"):
        read_imageset(tmp_path / "short")
