"""What `write_images` refuses, and that nothing is at its place unless all of it is."""

import json
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import BaseError, DestinationError, NoSpaceError, OptionError, RefusedError, UnreadableError
from engine.materialize.hotswap import write_images
from tests.engine.materialize.hotswap.sets import config_alone, folders, runtime, small
from tests.engine.model.live import lora_folder
from tests.engine.model.states import with_nan

PLAIN = {"r": 2, "target_modules": ["q_proj"]}
NEED_BASE = {
    "an own bias": ({"bias": "all"}, "only the base tells which module has the bias"),
    "replaced tokens": ({"trainable_token_indices": {"embed_tokens": [1]}}, "only the base tells which modules share the embedding"),
    "an embedding": ({"target_modules": ["embed_tokens"]}, "only the base tells whether the embedding is its own"),
    "a parameter": ({"target_modules": [], "target_parameters": ["q_proj.weight"]}, r"only the base tells what kind of module it is \(parameter\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", NEED_BASE)
def test_what_only_the_base_tells_is_refused_by_name_without_it(case, tmp_path):
    settings, told = NEED_BASE[case]
    adapters = folders(tmp_path, small(attention_bias=True), PLAIN | settings, PLAIN)

    with pytest.raises(RefusedError, match=told) as raised:
        write_images(adapters, tmp_path / "set")

    assert {finding.rule for finding in raised.value.findings} == {"image-base"}
    assert not (tmp_path / "set").exists()


def test_another_type_needs_the_base_and_is_the_same_bits_with_it(tmp_path):
    from peft import IA3Config, get_peft_model

    model = small()
    wrapped = get_peft_model(
        small(), IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
    )
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "ia3" in name:
                parameter.normal_(1.0, 0.3, generator=torch.Generator().manual_seed(3))
    wrapped.save_pretrained(tmp_path / "ia3")

    with pytest.raises(RefusedError, match="peft_type IA3: only the base tells what its tensors are on"):
        write_images({"ia3": tmp_path / "ia3"}, tmp_path / "set")
    write_images({"ia3": tmp_path / "ia3"}, tmp_path / "set", base=config_alone(model, tmp_path / "base"))

    by_file, by_folder = (runtime(model, {"ia3": place}) for place in (tmp_path / "set", tmp_path / "ia3"))
    found, expected = by_file._residence.image("ia3").values, by_folder._residence.image("ia3").values
    assert torch.equal(found, expected) and found.any()


def test_an_embedding_of_its_own_is_refused_even_with_the_base(tmp_path):
    model = small()
    folder = folders(tmp_path, model, {"r": 2, "target_modules": ["embed_tokens"]})["a"]
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in tensors if "lora" not in name)
    save_file(tensors | {name: tensors[name] + 1}, weights)
    model.save_pretrained(tmp_path / "base")

    with pytest.raises(RefusedError, match=f"{name}: another embedding than the base's"):
        write_images({"a": folder}, tmp_path / "set", base=tmp_path / "base")
    with pytest.raises(RefusedError, match="only the base tells by its weights, whether the embedding is its own"):
        write_images({"a": folder}, tmp_path / "set", base=config_alone(model, tmp_path / "config alone"))


def test_adapters_of_different_bases_are_refused_with_every_module(tmp_path):
    (tmp_path / "x").mkdir()
    adapters = folders(tmp_path, small(), PLAIN) | {
        "b": lora_folder(tmp_path / "x/b", small(hidden_size=16), r=2, target_modules=["q_proj", "v_proj"])
    }

    with pytest.raises(RefusedError, match=r"q_proj.lora_A.weight: expected \[2, 32\], found \[2, 16\]"):
        write_images(adapters, tmp_path / "set")


def test_a_base_of_other_shapes_is_refused_for_all_adapters_at_once(tmp_path):
    adapters = folders(tmp_path, small(), PLAIN, {"r": 2, "target_modules": ["down_proj"]})

    with pytest.raises(RefusedError) as raised:
        write_images(adapters, tmp_path / "set", base=config_alone(small(hidden_size=16), tmp_path / "base"))

    places = " ".join(finding.where for finding in raised.value.findings)
    assert "q_proj" in places and "down_proj" in places


def test_layers_that_repeat_differently_have_no_class_in_common(tmp_path):
    adapters = folders(tmp_path, small(), PLAIN, PLAIN | {"layer_replication": [[0, 1], [0, 1]]})

    with pytest.raises(RefusedError, match="layer_replication: expected "):
        write_images(adapters, tmp_path / "set")


@pytest.mark.parametrize("dtype", [None, "fp16"])
def test_numbers_that_are_not_finite_are_refused(dtype, tmp_path):
    """NaN anywhere; 1e6 where the dtype asked for ends at 65504."""
    folder = folders(tmp_path, small(), PLAIN)["a"]
    if dtype is None:
        with_nan(folder)
    else:
        weights = folder / "adapter_model.safetensors"
        save_file({name: tensor * 1e6 for name, tensor in load_file(weights).items()}, weights)

    with pytest.raises(RefusedError, match=f"/a: holds numbers that are not finite in {'F16' if dtype else 'F32'}"):
        write_images({"a": folder}, tmp_path / "set", dtype=dtype)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


OPTIONS = {
    "no adapter": ({}, {}, OptionError, "expected at least one adapter"),
    "rank 0": ({"a": "a"}, {"target_rank": 0}, OptionError, "target_rank: expected a whole number of at least 1, found 0"),
    "a rank below an adapter's": ({"a": "a"}, {"target_rank": 1}, RefusedError, "q_proj: rank 2, this runtime has room for 1"),
    "no dtype": ({"a": "a"}, {"dtype": "int8"}, OptionError, "dtype 'int8'"),
    "the name of the base": ({"__base__": "a"}, {}, OptionError, "stands for the base model"),
    "a name with a line's end": ({"a\n": "a"}, {}, OptionError, "expected 1 to 256 printable"),
    "no folder": ({"a": "nothing"}, {}, UnreadableError, "not a folder"),
    "no base": ({"a": "a"}, {"base": "nothing"}, BaseError, "nothing"),
}  # fmt: skip


@pytest.mark.parametrize("case", OPTIONS)
def test_what_cannot_be_asked_for_is_refused_and_nothing_is_written(case, tmp_path):
    named, options, error, told = OPTIONS[case]
    folders(tmp_path, small(), PLAIN)
    options = {key: tmp_path / value if key == "base" else value for key, value in options.items()}

    with pytest.raises(error, match=told):
        write_images({name: tmp_path / place for name, place in named.items()}, tmp_path / "set", **options)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_what_is_there_is_never_written_over(tmp_path):
    adapters = folders(tmp_path, small(), PLAIN)
    (tmp_path / "set").write_text("mine")

    with pytest.raises(DestinationError, match="exists; give a name that is free"):
        write_images(adapters, tmp_path / "set")

    assert (tmp_path / "set").read_text() == "mine"


def test_too_little_room_is_told_in_bytes_before_anything_is_written(tmp_path, monkeypatch):
    """One image of A (2, 32), B (32, 2) in float32 is one page, its header two."""
    adapters = folders(tmp_path, small(), PLAIN)
    size = write_images(adapters, tmp_path / "first").file_size
    usage = shutil.disk_usage(tmp_path)._replace(free=size - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)

    with pytest.raises(NoSpaceError, match=f"needs {size} bytes, {size - 1} are free") as raised:
        write_images(adapters, tmp_path / "set")

    assert (raised.value.needed, raised.value.free) == (size, size - 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "first"]


KILLED = """
import json, os, signal, sys
from pathlib import Path
import engine.materialize.hotswap.write as room
calls, when, names = [], int(sys.argv[1]), json.loads(sys.argv[2])
write = room.write
def dies(*args):
    calls.append(1)
    if len(calls) == when:
        os.kill(os.getpid(), signal.SIGKILL)
    write(*args)
room.write = dies
room.write_images({name: Path(path) for name, path in names.items()}, Path(sys.argv[3]))
"""


@pytest.mark.parametrize("when", [2, *(pytest.param(each, marks=pytest.mark.slow) for each in (1, 3))])
def test_a_kill_leaves_nothing_at_the_place_and_the_next_run_is_whole(when, tmp_path):
    """At the first image, at the second, and before the header, which comes last."""
    adapters = folders(tmp_path, small(), PLAIN, PLAIN)
    names = json.dumps({name: str(path) for name, path in adapters.items()})

    done = subprocess.run([sys.executable, "-c", KILLED, str(when), names, tmp_path / "set"], check=False)

    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "set").exists()
    write_images(adapters, tmp_path / "set")
    assert set(runtime(small(), dict.fromkeys(adapters, tmp_path / "set")).adapters) == {"a", "b"}


def test_a_base_that_transformers_cannot_build_is_not_needed_for_what_factors_tell(tmp_path):
    """A config of diffusers; an own bias would need its modules."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base/config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    plain, biased = folders(tmp_path, small(attention_bias=True), PLAIN, PLAIN | {"bias": "all"}).values()

    images = write_images({"a": plain}, tmp_path / "set", base=tmp_path / "base")

    assert list(images.swap_class.modules) == ["model.layers.0.self_attn.q_proj"]
    with pytest.raises(BaseError, match="has no class for architecture"):
        write_images({"b": biased}, tmp_path / "other", base=tmp_path / "base")


class Attends(torch.nn.Module):
    """An attention block, whose projections PEFT takes as tensors of their own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.attn = torch.nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attn(x, x, x, need_weights=False)[0]


def test_a_place_that_only_the_live_model_knows_is_named_when_the_image_is_loaded(tmp_path):
    """Its factors look like a linear layer's: without the base the image has them there."""
    folder = lora_folder(tmp_path / "a", Attends().eval(), r=2, target_modules=["attn"])
    write_images({"a": folder}, tmp_path / "set")
    held = runtime(Attends().eval(), {"a": folder})

    with pytest.raises(RefusedError) as raised:
        held.load("b", tmp_path / "set")

    told = {finding.where: finding.message for finding in raised.value.findings}
    assert told["attn"] == "attn: the images are for a module of kind linear, found a MultiheadAttention"
    assert told["attn.out_proj.weight"].startswith("attn.out_proj.weight: the image has no place for")
    assert held.adapters == ("a",)
