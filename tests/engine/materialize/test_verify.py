"""A finished folder is proven from its files: every wrong byte is named, and what is in the weights is measured again."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from engine.errors import BaseError, OptionError, UnreadableError, WrongBytesError
from engine.materialize import Request, Source, materialize
from engine.materialize.folder.manifest import MANIFEST, Manifest, read_manifest, rendered
from engine.materialize.recipe import canonical_digest
from engine.materialize.verify import verify
from tests.engine.materialize.small import contents, make_adapter, make_base, request


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Base, adapter and the folder made of them, with a tokenizer and code."""
    folder = tmp_path_factory.mktemp("place")
    wanted = request(folder)
    (wanted.base / "tokenizer.json").write_text('{"added_tokens": []}')
    (wanted.base / "modeling_own.py").write_text("x = 1\n")
    done = materialize(wanted, folder / "out")
    return folder, wanted, done


@pytest.fixture
def out(place, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(place[0] / "out", tmp_path / "out")


NAMES = [
    "README.md",
    "config.json",
    "materialize.json",
    "model-00001-of-00003.safetensors",
    "model-00002-of-00003.safetensors",
    "model-00003-of-00003.safetensors",
    "model.safetensors.index.json",
    "modeling_own.py",
    "tokenizer.json",
]


def test_an_untouched_folder_is_verified(place):
    folder, _, _ = place

    found = verify(folder / "out")

    assert (found.tensors, found.files, found.extra, found.report) == (10, 6, (), None)
    assert sorted(contents(folder / "out")) == NAMES


def test_with_base_and_adapters_everything_is_measured_again(place):
    folder, wanted, done = place

    assert verify(folder / "out", wanted.base, wanted.sources).report == done.report
    assert done.report["modules"] == 6
    assert done.report["copied"] == 4


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", [0.0, 0.02, 0.3, 0.5, 0.8, 1.0])
def test_a_flipped_bit_in_any_file_is_found_and_named(out, name, where):
    content = bytearray((out / name).read_bytes())
    content[int(where * (len(content) - 1))] ^= 4
    (out / name).write_bytes(content)

    with pytest.raises(WrongBytesError) as caught:
        verify(out)

    assert caught.value.exit_code == 6
    assert len({what.split(":")[0].removesuffix(" (header)") for what, _, _ in caught.value.wrong}) == 1
    assert name in str(caught.value)


def test_the_tensor_with_the_wrong_byte_is_named(out):
    manifest = json.loads((out / MANIFEST).read_text())
    name = max(manifest["tensors"], key=lambda one: (manifest["tensors"][one]["file"], one))
    file = out / manifest["tensors"][name]["file"]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # the last in its file: equal dtypes are in the order of names
    file.write_bytes(content)

    with pytest.raises(WrongBytesError, match=f"{file.name}: {name}: wrong bytes: expected"):
        verify(out)


@pytest.mark.parametrize("name", [name for name in NAMES if name != MANIFEST])
@pytest.mark.parametrize("damage", ["missing", "shorter", "longer", "empty", "link"])
def test_a_file_of_another_size_or_kind_is_named(out, tmp_path, name, damage):
    content = (out / name).read_bytes()
    if damage == "missing":
        (out / name).unlink()
    elif damage == "link":
        (out / name).rename(tmp_path / "moved")
        (out / name).symlink_to(tmp_path / "moved")
    else:
        (out / name).write_bytes({"shorter": content[:-1], "longer": content + b" ", "empty": b""}[damage])

    with pytest.raises(WrongBytesError, match=name):
        verify(out)


def test_a_folder_without_manifest_was_not_made_here(out):
    (out / MANIFEST).unlink()

    with pytest.raises(BaseError, match=r"materialize\.json: cannot be read"):
        verify(out)


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value["tensors"]["model.norm.weight"].update(file="../base/model.safetensors"),
        lambda value: value["tensors"]["model.norm.weight"].update(dtype="F1"),
        lambda value: value["tensors"]["model.norm.weight"].update(shape=[-16]),
        lambda value: value["tensors"]["model.norm.weight"].update(shape=[True]),
        lambda value: value["files"].update({"/etc/passwd": {"size": 1, "sha256": ""}}),
        lambda value: value["files"].update({"../x": {"size": 1, "sha256": ""}}),
        lambda value: value["files"]["config.json"].update(size="1"),
        lambda value: value.update(tensors=[]),
        lambda value: value["changes"].update(x={"module": "x", "sums": [1]}),
        lambda value: value.pop("recipe"),
        lambda value: value.update(more=1),
    ],
)
def test_a_manifest_that_says_what_none_says_is_refused(out, change):
    value = json.loads((out / MANIFEST).read_text())
    change(value)
    told = {key: held for key, held in value.items() if key != "digest"}
    again = {**told, "digest": canonical_digest(told)}  # by one who knows how it is made
    (out / MANIFEST).write_text(json.dumps(again, indent=2, ensure_ascii=False) + "\n")

    with pytest.raises(WrongBytesError, match=r"materialize\.json"):
        verify(out)


@pytest.mark.parametrize("content", ["", "[]", "null", "{", "[" * 9000, "\0"])
def test_a_manifest_that_is_none_is_refused(out, content):
    (out / MANIFEST).write_text(content)

    with pytest.raises(WrongBytesError, match=r"materialize\.json"):
        verify(out)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "pytorch_model.bin", "generation_config.json", "vocab.txt", "other.py", "model.gguf"]
)
def test_a_file_that_a_loader_would_take_as_well_is_wrong(out, name):
    """A model.safetensors beside the index would be loaded instead of all shards."""
    (out / name).write_text("x")

    with pytest.raises(WrongBytesError, match=f"{name}: wrong bytes: expected no such file"):
        verify(out)


def test_other_files_are_told_of(out):
    (out / "notes.txt").write_text("x")
    (out / ".git").mkdir()
    (out / ".git" / "x.py").write_text("x")
    (out / ".gitattributes").write_text("x")
    (out / "__pycache__").mkdir()
    (out / "__pycache__" / "x.bin").write_text("x")

    assert verify(out).extra == ("notes.txt",)


def forged(out, name, change):
    """Put other numbers into a tensor and make the manifest say so: a folder that agrees with itself."""
    found = read_manifest(out)
    row = found.tensors[name]
    every = load_file(out / row["file"])
    every[name] = change(every[name])
    save_file(every, out / row["file"], metadata={"format": "pt"})
    import hashlib

    digest = hashlib.sha256(every[name].view(torch.uint8).numpy().tobytes()).hexdigest()
    tensors = {**found.tensors, name: {**row, "sha256": digest}}
    (out / MANIFEST).write_bytes(rendered(Manifest(found.plan, found.recipe, tensors, found.changes, found.files)))
    assert verify(out).tensors == 10


def test_a_tensor_that_no_adapter_changes_must_have_the_bases_bytes(place, out):
    _, wanted, _ = place
    forged(out, "model.norm.weight", lambda numbers: numbers * 2)

    with pytest.raises(WrongBytesError, match=r"model\.norm\.weight, to which nothing is added"):
        verify(out, wanted.base, wanted.sources)


def test_a_weight_without_its_change_is_named(place, out):
    """The base's own bytes where the adapter's should be added: nothing of ΔW is there."""
    _, wanted, _ = place
    name = "model.layers.0.self_attn.q_proj.weight"
    files = [load_file(file) for file in sorted(wanted.base.glob("*.safetensors"))]
    own = next(one[name] for one in files if name in one)
    forged(out, name, lambda numbers: own)

    with pytest.raises(
        WrongBytesError, match=f"{name}: kept share of its change: wrong bytes: expected .*found 0.0000"
    ):
        verify(out, wanted.base, wanted.sources)


def test_an_index_that_points_elsewhere_is_wrong_even_with_its_digest(out):
    import hashlib

    index = out / "model.safetensors.index.json"
    value = json.loads(index.read_text())
    value["weight_map"]["model.norm.weight"] = "model-00001-of-00003.safetensors"
    index.write_text(json.dumps(value))
    found = read_manifest(out)
    row = {"size": index.stat().st_size, "sha256": hashlib.sha256(index.read_bytes()).hexdigest()}
    again = Manifest(found.plan, found.recipe, found.tensors, found.changes, {**found.files, index.name: row})
    (out / MANIFEST).write_bytes(rendered(again))

    with pytest.raises(WrongBytesError, match="weight_map"):
        verify(out)


def test_another_base_is_no_reason_to_doubt_the_folder(place, tmp_path):
    folder, wanted, _ = place
    other = make_base(tmp_path / "base", seed=7)

    with pytest.raises(BaseError, match="is not the folder's base: expected sha256:"):
        verify(folder / "out", other, wanted.sources)


def test_another_adapter_is_no_reason_either(place, tmp_path):
    folder, wanted, _ = place
    other = make_adapter(tmp_path / "adapter", seed=7)

    with pytest.raises(UnreadableError, match="is not the folder's adapter: tensors_digest"):
        verify(folder / "out", wanted.base, [Source(other)])
    with pytest.raises(UnreadableError, match=r"weight 1\.0 expected, found 0\.5"):
        verify(folder / "out", wanted.base, [Source(wanted.sources[0].path, weight=0.5)])
    with pytest.raises(OptionError, match="from 1 adapters, 0 are given"):
        verify(folder / "out", wanted.base)


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "float32"},
        {"dtype": "float16"},
        {"rounding": "stochastic", "seed": 3},
        {"dtype": "float16", "rounding": "stochastic", "seed": 3},
    ],
)
def test_every_way_to_write_is_verified(tmp_path, options):
    wanted = request(tmp_path, **options)
    done = materialize(wanted, tmp_path / "out")

    assert verify(tmp_path / "out", wanted.base, wanted.sources, jobs=1).report == done.report


@pytest.mark.parametrize(
    "options", [{"quantize": "int8"}, {"quantize": "nf4"}, {"quantize": "nf4", "double_quantize": False}]
)
def test_a_quantised_folder_is_verified(tmp_path, options):
    """And a change of one code of an adapted weight is one of its sha256, wherever its scales lie."""
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=64, bos_token_id=1)).save_pretrained(tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter", width=64)
    wanted = Request(base=tmp_path / "base", sources=(Source(adapter),), **options)
    done = materialize(wanted, tmp_path / "out")

    assert verify(tmp_path / "out", wanted.base, wanted.sources).report == done.report
    file = tmp_path / "out" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(WrongBytesError, match=r"model\.safetensors: model"):
        verify(tmp_path / "out")


def test_an_adapters_own_copy_must_be_the_adapters_bytes(tmp_path):
    """modules_to_save: the norm is the adapter's, not the base's."""
    wanted = request(tmp_path)
    adapter = wanted.sources[0].path
    factors = load_file(adapter / "adapter_model.safetensors")
    own = torch.arange(16, dtype=torch.bfloat16)
    save_file({**factors, "base_model.model.model.norm.weight": own}, adapter / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "modules_to_save": ["norm"]}))

    done = materialize(wanted, tmp_path / "out")

    assert (done.report["copied"], done.report["replaced"]) == (3, 1)
    file = tmp_path / "out" / done.tensors["model.norm.weight"]["file"]
    assert torch.equal(load_file(file)["model.norm.weight"], own)
    assert verify(tmp_path / "out", wanted.base, wanted.sources).report == done.report
    forged(tmp_path / "out", "model.norm.weight", torch.ones_like)
    with pytest.raises(WrongBytesError, match=r"model\.norm\.weight"):
        verify(tmp_path / "out", wanted.base, wanted.sources)


def test_a_cast_tensor_must_be_the_bases_cast(tmp_path):
    wanted = request(tmp_path, dtype="float32")
    materialize(wanted, tmp_path / "out")
    forged(tmp_path / "out", "model.norm.weight", lambda numbers: numbers + 1)

    with pytest.raises(WrongBytesError, match=r"model\.norm\.weight, to which nothing is added"):
        verify(tmp_path / "out", wanted.base, wanted.sources)


def test_a_report_names_the_worst_first_and_counts_the_rest(tmp_path):
    """bf16 keeps 8 bits: an update of 1e-4 of the weights is nearly lost, one of the weights' size is not."""
    wanted = request(tmp_path)
    for file in wanted.sources[0].path.iterdir():
        file.unlink()
    wanted.sources[0].path.rmdir()
    make_adapter(wanted.sources[0].path, scale=1e-4)

    report = materialize(wanted, tmp_path / "out").report

    errors = [one["relative_error"] for one in report["per_module"]]
    assert errors == sorted(errors, reverse=True)
    assert (report["copied"], report["cast"], report["replaced"]) == (4, 0, 0)
    # an embedding of 24 rows, two linears and a norm, two bytes a number
    assert report["copied_bytes"] == 2 * (24 * 16 + 2 * 16 * 16 + 16)
    (warning,) = report["warnings"]
    assert "Take dtype float32, or rounding stochastic, or leave the adapter unmerged" in warning
    assert f"{report['swallowed']:.0%} of the elements" in warning


@pytest.mark.parametrize("options", [{"dtype": "float32"}, {"rounding": "stochastic"}])
def test_each_remedy_takes_the_warning_away(tmp_path, options):
    wanted = request(tmp_path, **options)
    for file in wanted.sources[0].path.iterdir():
        file.unlink()
    wanted.sources[0].path.rmdir()
    make_adapter(wanted.sources[0].path, scale=1e-3)

    report = materialize(wanted, tmp_path / "out").report

    assert report["warnings"] == []
    if "dtype" in options:
        assert report["cast"] == 4
        assert report["swallowed"] < 0.01


def test_a_folder_stays_verified_where_it_is_moved_to(place, tmp_path):
    shutil.copytree(place[0] / "out", tmp_path / "elsewhere")
    os.utime(tmp_path / "elsewhere" / "config.json", ns=(0, 0))

    assert verify(tmp_path / "elsewhere").tensors == 10
