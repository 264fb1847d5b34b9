"""Adapters and bases that call the same tensors otherwise, and tensors that hold several of a model's parameters."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from engine.materialize.changes.dora import Dora
from engine.materialize.changes.experts import Expert, Experts
from engine.materialize.changes.lowrank import LowRank
from engine.materialize.changes.scale import Scale
from engine.materialize.changes.tokens import Tokens
from engine.materialize.changes.vectors import Added
from engine.materialize.matching.pieces import change_of, copy_of
from engine.materialize.matching.seat import Piece, Seat
from engine.materialize.stored.place import Place
from tests.engine.materialize.matching.judge import beside, close, merged, out, saved, tensors
from tests.engine.model import drawn
from tests.engine.model.live import llama, lora_folder


def renamed(folder, rename):
    """The adapter with other tensor names."""
    file = folder / "adapter_model.safetensors"
    save_file({rename(name): one for name, one in load_file(file).items()}, file)
    return folder


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.removeprefix("base_model.model."),
        lambda name: name.replace("base_model.model.model.", "base_model.model."),
        lambda name: name.replace("base_model.model.", "base_model.model.module."),
        lambda name: name.replace("lora_magnitude_vector", "lora_magnitude_vector.weight"),
    ],
    ids=["no prefix", "of the body", "data parallel", "old magnitude"],
)
def test_prefixes_that_strangers_use(tmp_path, rename):
    model = llama()
    folder = lora_folder(tmp_path / "a", model, use_dora=True)
    base = saved(model, tmp_path / "base")
    expected = tensors(merged(base, [folder], tmp_path / "expected"))
    found = tensors(merged(base, [renamed(folder, rename)], tmp_path / "out"))
    assert all(torch.equal(found[name], one) for name, one in expected.items())


def test_a_base_saved_without_its_head_takes_an_adapter_of_the_whole_model(tmp_path):
    model = drawn.base("gpt2")
    folder = lora_folder(tmp_path / "a", model, target_modules=["c_attn", "attn.c_proj"])
    base = saved(model.transformer, tmp_path / "base")
    assert "h.0.attn.c_proj.weight" in tensors(base)
    done = merged(base, [folder], tmp_path / "out")
    close(out(type(model).from_pretrained(done), **drawn.FAMILIES["gpt2"].inputs), _gpt2(model, folder))


def test_the_square_conv1ds_of_gpt2_are_turned(tmp_path):
    """h.0.attn.c_proj is (24, 24): only the family tells that it is stored (in, out)."""
    model = drawn.base("gpt2")
    folder = lora_folder(tmp_path / "a", model, target_modules=["attn.c_proj"], use_dora=True)
    done = merged(saved(model, tmp_path / "base"), [folder], tmp_path / "out")
    close(out(type(model).from_pretrained(done), **drawn.FAMILIES["gpt2"].inputs), _gpt2(model, folder))


def _gpt2(model, folder):
    return out(beside(model, [folder]), **drawn.FAMILIES["gpt2"].inputs)


def test_an_adapter_with_the_names_of_an_older_transformers(tmp_path):
    """Checkpoints of ViT hold the old names, which adapters of that time have too."""
    model = drawn.base("vit")
    base = saved(model, tmp_path / "base")
    folder = lora_folder(tmp_path / "a", model, target_modules=["q_proj", "fc1"])
    expected = tensors(merged(base, [folder], tmp_path / "expected"))
    old = {"vit.layers.": "vit.encoder.layer.", ".attention.q_proj.": ".attention.attention.query.", ".mlp.fc1.": ".intermediate.dense."}  # fmt: skip

    def rename(name):
        for new, before in old.items():
            name = name.replace(new, before)
        return name

    renamed(folder, rename)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["target_modules"] = ["query", "intermediate.dense"]
    (folder / "adapter_config.json").write_text(json.dumps(config))
    found = tensors(merged(base, [folder], tmp_path / "out"))
    assert "vit.encoder.layer.0.attention.attention.query.weight" in found
    assert all(torch.equal(found[name], one) for name, one in expected.items())


def dino():
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, image_size=8, patch_size=4, use_swiglu_ffn=True
    )
    return transformers.Dinov2Model(config).eval()


@pytest.mark.parametrize("config", [{}, {"use_dora": True}, {"lora_bias": True}, {"bias": "lora_only"}], ids=str)
def test_layers_that_one_stored_tensor_holds_together(tmp_path, config):
    model, x = dino(), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    folder = lora_folder(
        tmp_path / "a", model, target_modules=["gate_proj", "up_proj", "layers.1.mlp.down_proj"], **config
    )
    base = saved(model, tmp_path / "base")
    assert any("weights_in" in name for name in tensors(base))
    done = merged(base, [folder], tmp_path / "out")
    assert tensors(done).keys() == tensors(base).keys()
    close(out(type(model).from_pretrained(done), x), out(beside(model, [folder]), x), 1e-5)


def test_two_adapters_on_parts_of_one_stored_tensor(tmp_path):
    model, x = dino(), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    folders = [
        lora_folder(tmp_path / "a", model, target_modules=["gate_proj"]),
        lora_folder(tmp_path / "b", model, target_modules=["gate_proj", "up_proj"], seed=2),
    ]
    done = merged(saved(model, tmp_path / "base"), folders, tmp_path / "out")
    close(out(type(model).from_pretrained(done), x), out(beside(model, folders), x), 1e-5)


def test_saved_modules_that_are_parts_of_stored_tensors(tmp_path):
    model, x = dino(), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    folder = lora_folder(tmp_path / "a", model, target_modules=["q_proj"], modules_to_save=["layers.0.mlp"])
    done = merged(saved(model, tmp_path / "base"), [folder], tmp_path / "out")
    close(out(type(model).from_pretrained(done), x), out(beside(model, [folder]), x), 1e-5)


P = Place
A, B = P("f", 0, "F32", (6, 10)), P("f", 240, "F32", (12, 6))
STACK = Seat("experts.down", (3, 12, 10), ())


def test_a_change_of_all_experts_is_cut_for_each():
    change = Experts(A, B, 0.5)
    cut = change_of(change, Piece("one", expert=1, rows=(4, 8)), STACK)
    assert cut == Expert(P("f", 80, "F32", (2, 10)), P("f", 240 + 4 * 24, "F32", (8, 6)), 0.5, 1, 3)
    turned = change_of(change, Piece("all", turned=True), STACK)
    assert turned == Experts(A, B, 0.5, transposed=True)


def test_changes_are_cut_for_tensors_that_hold_some_rows():
    seat, piece = Seat("fused", (12, 10), ()), Piece("part", rows=(3, 2))
    low_rank, cut = LowRank(A, B, 0.5), LowRank(A, P("f", 240 + 3 * 24, "F32", (2, 6)), 0.5)
    magnitude, vector = P("f", 600, "F32", (12,)), P("f", 700, "F32", (12, 1))
    assert change_of(low_rank, piece, seat) == cut
    assert change_of(Dora(low_rank, magnitude, 0.7), piece, seat) == Dora(cut, P("f", 612, "F32", (2,)), 0.7)
    assert change_of(Added(magnitude, 2.0), piece, seat) == Added(P("f", 612, "F32", (2,)), 2.0)
    assert change_of(Scale(vector, 0.5), piece, seat) == Scale(P("f", 712, "F32", (2,)), 0.5)
    columns = Scale(P("f", 0, "F32", (1, 10)), 0.5, columns=True)
    assert change_of(columns, piece, seat) is columns


def test_what_does_not_come_apart_is_nothing():
    seat = Seat("fused", (12, 10), ())
    part = Piece("part", rows=(3, 2))
    assert change_of(Tokens(A, (1,), 1.0), part, seat) is None
    assert change_of(LowRank(A, B, 0.5, transposed=True), part, seat) is None
    assert change_of(LowRank(A, B, 0.5), Piece("part", turned=True), seat) is None
    assert change_of(Experts(A, B, 0.5, transposed=True), Piece("one", expert=1, rows=(0, 12)), STACK) is None
    assert copy_of(P("f", 0, "F32", (3, 12, 10)), Piece("part", turned=True)) is None


def test_copies_come_apart_as_runs_of_bytes():
    copy = P("f", 1000, "F32", (3, 12, 10))
    assert copy_of(copy, Piece("one", expert=2, rows=(4, 8))) == P("f", 1000 + 4 * (2 * 120 + 40), "F32", (8, 10))
    assert copy_of(copy, Piece("all")) == copy
