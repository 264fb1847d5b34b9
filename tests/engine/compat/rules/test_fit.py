"""Adapter against base: the layer kinds whose shapes need thought."""

import numpy as np
import pytest

from engine.compat.check import check_adapter
from engine.compat.layers import base_name
from engine.format.adapter import read_adapter
from engine.format.base import read_base
from tests.engine.compat.small_adapter import CONFIG, adapter, base


def _errors(tmp_path, module, a, b, shapes, *, model_type="llama", **changes):
    target = changes.pop("target_modules", [module.rpartition(".")[2]])
    suffix = changes.pop("suffix", ("lora_A.weight", "lora_B.weight"))
    extra = {
        f"base_model.model.{name}": np.ones(shape, dtype=np.float32) for name, shape in changes.pop("extra", {}).items()
    }
    weights = {
        f"base_model.model.{module}.{part}": np.ones(shape, dtype=np.float32)
        for part, shape in zip(suffix, (a, b), strict=True)
    }
    facts = adapter(tmp_path / "a", config={**CONFIG, "target_modules": target, **changes}, weights=weights | extra)
    known = base(tmp_path / "b", shapes, model_type=model_type)
    return {finding.rule for finding in check_adapter(facts, base=known) if finding.severity == "error"}


EMBEDDING = ("lora_embedding_A", "lora_embedding_B")


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((6, 4), set()), ((4, 6), {"base-shape"}), ((6, 5), {"base-shape"}), ((7, 4), {"base-shape"})],
)
def test_linear_weights_are_out_by_in(tmp_path, shape, expected):
    assert _errors(tmp_path, "model.layers.0.q", (2, 4), (6, 2), {"model.layers.0.q.weight": shape}) == expected


@pytest.mark.parametrize(("shape", "expected"), [((4, 6), set()), ((4, 7), {"base-shape"})])
def test_conv1d_weights_of_gpt2_are_in_by_out(tmp_path, shape, expected):
    shapes = {"transformer.h.0.attn.c_attn.weight": shape}

    assert _errors(tmp_path, "transformer.h.0.attn.c_attn", (2, 4), (6, 2), shapes, model_type="gpt2") == expected


@pytest.mark.parametrize(
    ("shape", "expected"), [((10, 4), set()), ((4, 10), {"base-shape"}), ((11, 4), {"base-shape"})]
)
def test_embeddings_are_vocabulary_by_width(tmp_path, shape, expected):
    shapes = {"model.embed_tokens.weight": shape}

    assert _errors(tmp_path, "model.embed_tokens", (2, 10), (4, 2), shapes, suffix=EMBEDDING) == expected


@pytest.mark.parametrize(("table", "expected"), [((11, 4), set()), ((12, 4), {"base-shape"})])
def test_a_larger_vocabulary_fits_only_with_its_own_table(tmp_path, table, expected):
    extra = {"model.embed_tokens.base_layer.weight": table}
    shapes = {"model.embed_tokens.weight": (10, 4)}

    assert _errors(tmp_path, "model.embed_tokens", (2, 11), (4, 2), shapes, suffix=EMBEDDING, extra=extra) == expected


@pytest.mark.parametrize(
    ("a", "b", "shape", "expected"),
    [
        ((2, 4, 3), (6, 2, 1), (6, 4, 3), set()),
        ((2, 4, 3, 5), (6, 2, 1, 1), (6, 4, 3, 5), set()),
        ((2, 4, 2, 2, 2), (6, 2, 1, 1, 1), (6, 4, 2, 2, 2), set()),
        ((2, 8, 3, 3), (12, 1, 1, 1), (12, 4, 3, 3), set()),  # two groups
        ((2, 8, 3, 3), (12, 1, 1, 1), (12, 8, 3, 3), {"base-shape"}),
        ((2, 4, 3, 5), (6, 2, 1, 1), (6, 4, 5, 3), {"base-shape"}),
    ],
)
def test_convolutions_keep_kernel_and_groups(tmp_path, a, b, shape, expected):
    assert _errors(tmp_path, "net.conv", a, b, {"net.conv.weight": shape}) == expected


@pytest.mark.parametrize(("shape", "expected"), [((12, 4), set()), ((12, 5), {"base-shape"})])
def test_attention_blocks_use_their_joint_projection(tmp_path, shape, expected):
    shapes = {"net.mha.in_proj_weight": shape, "net.mha.out_proj.weight": (4, 4)}

    assert _errors(tmp_path, "net.mha", (2, 4), (12, 2), shapes) == expected


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((3, 6, 4), set()), ((3, 4, 6), set()), ((3, 6, 5), {"base-shape"}), ((4, 6, 4), {"base-shape"})],
)
def test_parameters_of_experts_fit_in_either_orientation(tmp_path, shape, expected):
    found = _errors(
        tmp_path, "model.layers.0.experts", (6, 4), (6, 6), {"model.layers.0.experts.up": shape},
        target_modules=[], target_parameters=["experts.up"],
    )  # fmt: skip

    assert found == expected


def test_the_rank_of_a_parameter_is_a_multiple(tmp_path):
    found = _errors(
        tmp_path, "model.layers.0.experts", (7, 4), (6, 7), {"model.layers.0.other.weight": (1, 1), "model.layers.0.experts.0.up.weight": (6, 4)},
        target_modules=[], target_parameters=["experts.up"],
    )  # fmt: skip

    assert found == {"rank-mismatch"}


def test_a_tied_head_has_the_shape_of_the_embedding(tmp_path):
    shapes = {"model.embed_tokens.weight": (10, 4), "model.norm.weight": (4,)}

    assert _errors(tmp_path / "fits", "lm_head", (2, 4), (10, 2), shapes) == set()
    assert _errors(tmp_path / "wrong", "lm_head", (2, 4), (11, 2), shapes) == {"base-shape"}


def test_an_adapter_of_the_bare_body_fits_the_model_with_a_head(tmp_path):
    shapes = {"bert.encoder.layer.0.attention.self.query.weight": (6, 4), "classifier.weight": (2, 4)}

    assert _errors(tmp_path, "encoder.layer.0.attention.self.query", (2, 4), (6, 2), shapes) == set()


def test_a_replicated_layer_is_compared_with_its_source(tmp_path):
    shapes = {"model.layers.0.q.weight": (6, 4), "model.layers.1.q.weight": (7, 4)}
    replication = [[0, 2], [1, 2]]  # layer 2 repeats layer 1

    assert (
        _errors(tmp_path / "fits", "model.layers.2.q", (2, 4), (7, 2), shapes, layer_replication=replication) == set()
    )
    assert _errors(tmp_path / "wrong", "model.layers.2.q", (2, 4), (6, 2), shapes, layer_replication=replication) == {
        "base-shape"
    }
    assert _errors(tmp_path / "absent", "model.layers.3.q", (2, 4), (7, 2), shapes, layer_replication=replication) == {
        "base-module-absent",
        "replication-number",
    }


@pytest.mark.parametrize(
    ("module", "ranges", "expected"),
    [
        ("model.layers.3.q", [[0, 2], [0, 2]], "model.layers.1.q"),
        ("model.layers.0.q", [[4, 6]], "model.layers.4.q"),
        ("model.layers.9.q", [[0, 2]], "model.layers.9.q"),
        ("transformer.h.1.attn", [[2, 4]], "transformer.h.3.attn"),
        ("lm_head", [[0, 2]], "lm_head"),
        ("attn.base_layer.out_proj", None, "attn.out_proj"),
        ("model.layers.1.q", [[0, 10**12]], "model.layers.1.q"),
        ("model.layers.1.q", "nonsense", "model.layers.1.q"),
    ],
)
def test_replicated_layers_take_their_source_number(module, ranges, expected):
    assert base_name(module, {"layer_replication": ranges}) == expected


def test_experts_stored_one_by_one_are_not_called_absent(tmp_path):
    shapes = {"model.layers.0.block_sparse_moe.experts.0.w1.weight": (6, 4)}

    assert _errors(tmp_path, "model.layers.0.mlp.experts.0.w1", (2, 4), (6, 2), shapes) == set()


def test_packed_weights_are_not_compared(tmp_path):
    facts = adapter(tmp_path / "a", config={**CONFIG, "target_modules": ["q"]}, weights={
        "base_model.model.model.q.lora_A.weight": np.ones((2, 4), dtype=np.float32),
        "base_model.model.model.q.lora_B.weight": np.ones((6, 2), dtype=np.float32),
    })  # fmt: skip
    known = base(tmp_path / "b", {"model.q.weight": (12, 1)}, quantization_config={"quant_method": "bitsandbytes"})

    assert not [finding for finding in check_adapter(facts, base=known) if finding.severity == "error"]


def test_modules_of_a_family_that_is_stored_otherwise_are_not_called_absent(tmp_path):
    """transformers 5.23 saves ViT under names that its modules do not have."""
    torch = pytest.importorskip("torch")
    import peft
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**sizes, image_size=8, patch_size=4))
    model.save_pretrained(tmp_path / "base")
    peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear", r=2)).save_pretrained(tmp_path / "adapter")
    findings = check_adapter(read_adapter(tmp_path / "adapter"), base=read_base(tmp_path / "base"))

    assert [finding for finding in findings if finding.severity == "error"] == []
    assert "base-renamed" in {finding.rule for finding in findings}
