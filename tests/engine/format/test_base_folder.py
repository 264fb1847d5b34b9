"""Base models read from files."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from engine.errors import BaseError, HeaderError
from engine.format.base import has_weights, read_base, weight_files

TENSORS = {
    "transformer.wte.weight": np.arange(10, dtype=np.float32).reshape(5, 2),
    "transformer.h.0.ln_1.weight": np.ones(2, dtype=np.float32),
    "transformer.h.0.attn.bias": np.ones((1, 1, 4, 4), dtype=np.bool_),
    "lm_head.weight": np.arange(10, dtype=np.float32).reshape(5, 2),
}


@pytest.fixture
def folder(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    config = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "torch_dtype": "float32"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def _shard(folder, parts):
    folder.mkdir()
    weight_map = {}
    for number, names in enumerate(parts, 1):
        shard = f"model-{number:05}-of-{len(parts):05}.safetensors"
        save_file({name: TENSORS[name] for name in names}, folder / shard)
        weight_map.update(dict.fromkeys(names, shard))
    _index(folder, weight_map)
    return folder


def _index(folder, weight_map):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_a_folder_gives_its_parameters_and_what_its_config_states(folder):
    base = read_base(folder)

    assert base.parameters == {"wte.weight": (5, 2), "h.0.ln_1.weight": (2,)}
    assert (base.architecture, base.model_type, base.dtype, base.quantization) == (
        "GPT2LMHeadModel",
        "gpt2",
        "float32",
        None,
    )
    assert base.tensors == 4


def test_a_single_file_gives_the_same_digests(folder):
    assert read_base(folder / "model.safetensors").fingerprint == read_base(folder).fingerprint


def test_sharding_changes_no_digest(folder, tmp_path):
    names = sorted(TENSORS)
    sharded = read_base(_shard(tmp_path / "sharded", [names[:1], names[1:]]))

    assert sharded.fingerprint == read_base(folder).fingerprint
    assert sharded.layout == read_base(folder).layout


def test_one_changed_number_changes_the_fingerprint_and_not_the_layout(folder, tmp_path):
    other = dict(TENSORS) | {"transformer.h.0.ln_1.weight": np.array([1, 2], dtype=np.float32)}
    save_file(other, tmp_path / "other.safetensors")

    changed = read_base(tmp_path / "other.safetensors")

    assert changed.fingerprint != read_base(folder).fingerprint
    assert changed.layout == read_base(folder).layout


def test_the_dtype_without_a_config_is_that_of_most_bytes(tmp_path):
    save_file({"a": np.zeros(100, dtype=np.float16), "b": np.zeros(2, dtype=np.float64)}, tmp_path / "x.safetensors")

    assert read_base(tmp_path / "x.safetensors").dtype == "float16"


def test_the_quantisation_is_the_configs(folder):
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "bitsandbytes"}}))

    assert read_base(folder).quantization == "bitsandbytes"


def test_links_of_a_hub_cache_are_followed(folder, tmp_path):
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "model.safetensors").symlink_to(folder / "model.safetensors")

    assert read_base(snapshot).fingerprint == read_base(folder).fingerprint


def test_a_missing_shard_is_named(tmp_path):
    folder = _shard(tmp_path / "base", [["lm_head.weight"], ["transformer.wte.weight"]])
    (folder / "model-00002-of-00002.safetensors").unlink()

    with pytest.raises(
        BaseError, match=r"shard model-00002-of-00002\.safetensors is missing; it should hold 1 tensors"
    ):
        read_base(folder)


def test_an_index_that_promises_too_much_is_named(tmp_path):
    folder = _shard(tmp_path / "base", [["lm_head.weight"]])
    shard = "model-00001-of-00001.safetensors"
    _index(folder, {"lm_head.weight": shard, "ghost.weight": shard})

    with pytest.raises(BaseError, match=r"places ghost\.weight here, the file has no such tensor"):
        read_base(folder)


def test_a_tensor_that_the_index_does_not_name_is_named(tmp_path):
    folder = _shard(tmp_path / "base", [["lm_head.weight", "transformer.wte.weight"]])
    _index(folder, {"lm_head.weight": "model-00001-of-00001.safetensors"})

    with pytest.raises(BaseError, match=r"holds transformer\.wte\.weight, which the index does not place here"):
        read_base(folder)


def test_a_tensor_in_two_shards_is_named(tmp_path):
    folder = _shard(tmp_path / "base", [["lm_head.weight"], ["transformer.wte.weight"]])
    save_file(
        {name: TENSORS[name] for name in ("lm_head.weight", "transformer.wte.weight")},
        folder / "model-00002-of-00002.safetensors",
    )

    with pytest.raises(BaseError, match=r"lm_head\.weight"):
        read_base(folder)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "a\\b.safetensors", 3, "model.bin"])
def test_an_index_cannot_point_outside_its_folder(tmp_path, shard):
    _index(tmp_path, {"lm_head.weight": shard})

    with pytest.raises(
        BaseError, match=r"lm_head\.weight is placed in .* expected a \.safetensors file beside the index"
    ):
        read_base(tmp_path)


@pytest.mark.parametrize("text", ["[]", "{", "{}", '{"weight_map": {}}', '{"weight_map": []}', "[" * 100_000])
def test_a_broken_index_is_an_error(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)

    with pytest.raises(BaseError, match=r"model\.safetensors\.index\.json"):
        read_base(tmp_path)


def test_a_broken_config_is_an_error(folder):
    (folder / "config.json").write_text("not json")

    with pytest.raises(BaseError, match=r"config\.json: is not JSON"):
        read_base(folder)


def test_pickle_weights_are_refused_by_name(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK")

    with pytest.raises(BaseError, match="holds only pickle weights"):
        read_base(tmp_path)


def test_shards_without_an_index_are_refused(tmp_path):
    save_file({"a": np.zeros(1, dtype=np.float32)}, tmp_path / "model-00001-of-00002.safetensors")

    with pytest.raises(BaseError, match=r"no model\.safetensors\.index\.json"):
        read_base(tmp_path)


def test_a_missing_path_is_an_error(tmp_path):
    with pytest.raises(BaseError, match="no such file or folder"):
        read_base(tmp_path / "absent")


def test_a_truncated_file_is_a_header_error(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)

    with pytest.raises(HeaderError):
        read_base(tmp_path)


def test_weights_are_announced_only_where_they_are(folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()

    assert (has_weights(folder), has_weights(folder / "model.safetensors"), has_weights(empty)) == (True, True, False)


def test_a_single_file_wins_over_an_index(folder):
    _index(folder, {"a": "model-00001-of-00001.safetensors"})

    assert weight_files(folder) == ((folder / "model.safetensors", None),)


def test_a_real_checkpoint_reads(tmp_path):
    corpus = Path(__file__).parents[3].parent / "shared" / "corpus" / "weights" / "base-checkpoints"
    if not corpus.is_dir():
        pytest.skip("no corpus of strangers' files beside this checkout")
    base = read_base(corpus / "sshleifer__tiny-gpt2")

    assert (base.tensors, base.architecture) == (28, "GPT2LMHeadModel")
    assert base.parameters["h.1.attn.c_attn.weight"] == (2, 6)
