"""Adapter folders become modules with rank and scaling, and every tensor is explained or listed."""

import numpy as np
import pytest

from engine.errors import ConfigError, HeaderError, UnreadableError
from engine.format.adapter import read_adapter, read_adapter_files
from tests.engine.format.adapters import P, adapter, shaped


def pair(module, r=2, inner=3, out=4, prefix=P):
    return {f"{prefix}{module}.lora_A.weight": (r, inner), f"{prefix}{module}.lora_B.weight": (out, r)}


def facts(folder, shapes, **config):
    return read_adapter(adapter(folder, shaped(shapes), **config))


class TestModules:
    def test_linear(self, tmp_path):
        read = facts(tmp_path, pair("m.q"))
        (module,) = read.modules
        assert (module.name, module.kind, module.rank, module.alpha, module.scaling) == ("m.q", "linear", 2, 4, 2.0)
        assert (module.a_shape, module.b_shape, module.dtype) == ((2, 3), (4, 2), "F32")
        assert (module.a_key, module.b_key) == (P + "m.q.lora_A.weight", P + "m.q.lora_B.weight")
        assert (read.rank, read.unmatched, read.others, read.incomplete) == (2, (), {}, {})

    def test_prefix_is_optional(self, tmp_path):
        assert facts(tmp_path, pair("m.q", prefix="")).modules[0].name == "m.q"

    def test_rslora_divides_by_the_root(self, tmp_path):
        assert facts(tmp_path, pair("q", r=16), r=16, lora_alpha=8, use_rslora=True).modules[0].scaling == 2.0

    def test_patterns_give_each_module_its_own_rank_and_scaling(self, tmp_path):
        read = facts(
            tmp_path,
            pair("a.q", r=4) | pair("b.q", r=2) | pair("c.q", r=8),
            rank_pattern={"a.q": 4, "c.q": 8},
            alpha_pattern={"c.q": 32},
        )
        assert [(m.name, m.rank, m.scaling) for m in read.modules] == [
            ("a.q", 4, 1.0),
            ("b.q", 2, 2.0),
            ("c.q", 8, 4.0),
        ]
        assert read.rank == 8

    @pytest.mark.parametrize(
        ("a", "b", "kind"),
        [
            ((2, 4, 3), (6, 2, 1), "conv1d"),
            ((2, 4, 3, 5), (6, 2, 1, 1), "conv2d"),
            ((2, 4, 2, 2, 2), (6, 2, 1, 1, 1), "conv3d"),
            ((2,), (6, 2), "unknown"),
        ],
    )
    def test_kind_follows_the_dimensions(self, tmp_path, a, b, kind):
        assert facts(tmp_path, {P + "q.lora_A.weight": a, P + "q.lora_B.weight": b}).modules[0].kind == kind

    def test_embedding_follows_the_key(self, tmp_path):
        read = facts(tmp_path, {P + "q.lora_embedding_A": (2, 20), P + "q.lora_embedding_B": (12, 2)})
        assert (read.modules[0].kind, read.modules[0].rank, read.unmatched) == ("embedding", 2, ())

    def test_attention_out_proj_follows_the_attentions_rules(self, tmp_path):
        read = facts(
            tmp_path,
            pair("mha") | pair("mha.base_layer.out_proj"),
            target_modules=["mha"],
            rank_pattern={"mha": 2},
            r=9,
        )
        assert [(m.name, m.base_name, m.scaling) for m in read.modules] == [
            ("mha", "mha", 2.0),
            ("mha.base_layer.out_proj", "mha.out_proj", 2.0),
        ]
        assert read.unmatched == ()

    def test_parameters_of_experts(self, tmp_path):
        """A holds r rows per expert, so the rank is the configured one."""
        read = facts(
            tmp_path,
            pair("m.experts.base_layer", r=8) | pair("m.experts", r=8),
            target_modules=[],
            target_parameters=["experts.gate_up_proj", "experts.down_proj"],
        )
        assert [(m.name, m.kind, m.rank, m.a_shape, m.scaling) for m in read.modules] == [
            ("m.experts", "parameter", 2, (8, 3), 2.0),
            ("m.experts.base_layer", "parameter", 2, (8, 3), 2.0),
        ]
        assert read.unmatched == ()

    def test_pattern_for_a_parameter_names_module_and_parameter(self, tmp_path):
        read = facts(tmp_path, pair("e", r=6), target_modules=[], target_parameters=["e.w"], rank_pattern={"e.w": 3})
        assert (read.modules[0].rank, read.modules[0].scaling) == (3, 4 / 3)

    def test_rank_is_the_tensors_and_scaling_the_configs_where_they_differ(self, tmp_path):
        (module,) = facts(tmp_path, pair("q", r=6)).modules
        assert (module.rank, module.configured_rank, module.scaling) == (6, 2, 2.0)

    def test_rank_zero_is_refused_by_module(self, tmp_path):
        with pytest.raises(ConfigError, match=r"rank of a\.q must be a positive integer, found 0"):
            facts(tmp_path, pair("a.q"), rank_pattern={"q": 0})

    def test_missing_half_is_told(self, tmp_path):
        shapes = pair("a.q") | {P + "b.q.lora_A.weight": (2, 3), P + "c.q.lora_magnitude_vector": (3,)}
        read = facts(tmp_path, shapes, use_dora=True)
        assert [m.name for m in read.modules] == ["a.q"]
        assert read.incomplete == {"b.q": (P + "b.q.lora_A.weight",), "c.q": (P + "c.q.lora_magnitude_vector",)}

    def test_mixed_halves_are_no_pair(self, tmp_path):
        shapes = {P + "q.lora_A.weight": (2, 3), P + "q.lora_embedding_B": (4, 2)}
        assert list(facts(tmp_path, shapes).incomplete) == ["q"]


# further tensors, settings, role (None: nothing explains it)
EXPLAINED = [
    ("q.lora_magnitude_vector", {"use_dora": True}, "magnitude"),
    ("q.lora_magnitude_vector", {}, None),
    ("q.lora_B.bias", {"lora_bias": True}, "lora_bias"),
    ("q.lora_B.bias", {}, None),
    ("q.lora_diag", {"kasa_config": {}}, "diag"),
    ("q.lora_diag", {}, None),
    ("q.lora_velora_embed", {"velora_config": {}}, "velora"),
    ("q.lora_monteclora_sampler.std", {"monteclora_config": {}}, "monteclora"),
    ("emb.token_adapter.trainable_tokens_delta", {"trainable_token_indices": [1]}, "tokens"),
    ("emb.token_adapter.trainable_tokens_delta", {}, None),
    ("head.weight", {"modules_to_save": ["head"]}, "modules_to_save"),
    ("lm_head.weight", {"modules_to_save": ["head"]}, "modules_to_save"),
    ("head.dense.weight", {"modules_to_save": ["head"]}, "modules_to_save"),
    ("header.weight", {"modules_to_save": ["head"]}, None),
    ("head.weight", {}, None),
    ("m.classifier.weight", {"task_type": "SEQ_CLS"}, "modules_to_save"),
    ("qa_outputs.bias", {"task_type": "QUESTION_ANS"}, "modules_to_save"),
    ("m.classifier.weight", {"task_type": "CAUSAL_LM"}, None),
    ("q.base_layer.bias", {"bias": "lora_only"}, "bias"),
    ("q.bias", {"bias": "lora_only"}, "bias"),
    ("v.base_layer.bias", {"bias": "lora_only"}, None),
    ("v.bias", {"bias": "all"}, "bias"),
    ("q.base_layer.bias", {}, None),
    ("m.embed_tokens.weight", {}, "embedding"),
    ("m.embed_tokens.base_layer.weight", {}, "embedding"),
    ("lm_head.weight", {}, "embedding"),
    ("m.tok.base_layer.weight", {"target_modules": ["q", "tok"]}, "embedding"),
    ("m.tok.base_layer.weight", {}, None),
    ("up_proj.weight", {}, None),
    ("my_embed_tokens.weight", {}, None),
    ("q.lora_A.default.weight", {}, None),
    ("garbage", {}, None),
]


@pytest.mark.parametrize(("name", "config", "role"), EXPLAINED)
def test_every_other_tensor_has_a_role_or_is_unmatched(tmp_path, name, config, role):
    read = facts(tmp_path, pair("q") | {P + name: (1,)}, **config)
    assert read.others == ({} if role is None else {P + name: role})
    assert read.unmatched == (() if role else (P + name,))


def test_factors_of_an_untargeted_module_are_unmatched(tmp_path):
    read = facts(tmp_path, pair("q") | pair("v"))
    assert read.unmatched == (P + "v.lora_A.weight", P + "v.lora_B.weight")
    assert [m.name for m in read.modules] == ["q", "v"]


@pytest.mark.parametrize("config", [{"target_modules": None}, {"target_modules": "all-linear"}])
def test_targets_left_to_peft_explain_every_factor(tmp_path, config):
    assert facts(tmp_path, pair("anything"), **config).unmatched == ()


def test_other_types_have_tensors_and_no_modules(tmp_path):
    read = facts(tmp_path, {P + "q.ia3_l": (4, 1)}, peft_type="IA3")
    assert (read.modules, read.rank, read.unmatched) == ((), None, ())
    assert list(read.header.tensors) == [P + "q.ia3_l"]


class TestFolders:
    def test_pickle_weights_are_named_and_never_opened(self, tmp_path):
        adapter(tmp_path, shaped(pair("q")))
        (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
        (tmp_path / "adapter_model.bin").chmod(0)
        with pytest.raises(
            UnreadableError, match="only safetensors weights are taken, pickle weights are never opened"
        ):
            read_adapter(tmp_path)

    def test_missing_files_are_named(self, tmp_path):
        with pytest.raises(UnreadableError, match=r"holds no adapter_config\.json"):
            read_adapter(tmp_path)
        (tmp_path / "adapter_config.json").write_text('{"peft_type":"LORA"}')
        with pytest.raises(UnreadableError, match=r"holds no adapter_model\.safetensors"):
            read_adapter(tmp_path)
        with pytest.raises(UnreadableError, match="not a folder"):
            read_adapter(tmp_path / "nowhere")

    def test_link_as_weights_is_refused(self, tmp_path):
        adapter(tmp_path, shaped(pair("q")))
        (tmp_path / "adapter_model.safetensors").rename(tmp_path / "x")
        (tmp_path / "adapter_model.safetensors").symlink_to(tmp_path / "x")
        with pytest.raises(HeaderError, match="not-regular"):
            read_adapter(tmp_path)

    def test_files_of_any_name(self, tmp_path):
        folder = adapter(
            tmp_path, {P + "q.lora_A.weight": np.ones((2, 3), "<f2"), P + "q.lora_B.weight": np.ones((4, 2), "<f2")}
        )
        (folder / "adapter_config.json").rename(tmp_path / "c")
        (folder / "adapter_model.safetensors").rename(tmp_path / "w")
        read = read_adapter_files(tmp_path / "c", tmp_path / "w")
        assert (read.weights, read.modules[0].dtype) == (tmp_path / "w", "F16")
