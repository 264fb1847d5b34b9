"""Layouts from config.json alone."""

import json
import socket
import sys
import time
from pathlib import Path

import pytest

from engine.errors import BaseError, MissingExtraError
from engine.format.base import read_base
from engine.model.skeleton import layout_from_config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CORPUS = Path(__file__).parents[3].parent / "shared" / "corpus"

SMALL = {
    "LlamaForCausalLM": {"model_type": "llama", "vocab_size": 16, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1},
    "LlamaModel": {"model_type": "llama", "vocab_size": 16, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2},
    "Qwen2ForCausalLM": {"model_type": "qwen2", "vocab_size": 16, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True, "layer_types": ["full_attention"] * 2},
    "GPT2LMHeadModel": {"model_type": "gpt2", "vocab_size": 16, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 8},
    "GPT2Model": {"model_type": "gpt2", "vocab_size": 16, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 8},
    "BertModel": {"model_type": "bert", "vocab_size": 16, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 8},
    "BertForMaskedLM": {"model_type": "bert", "vocab_size": 16, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 8},
    "BertForSequenceClassification": {"model_type": "bert", "vocab_size": 16, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 8},
    "RobertaForMaskedLM": {"model_type": "roberta", "vocab_size": 16, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 8},
    "DistilBertForSequenceClassification": {"model_type": "distilbert", "vocab_size": 16, "dim": 8, "hidden_dim": 12, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 8},
    "T5ForConditionalGeneration": {"model_type": "t5", "vocab_size": 16, "d_model": 8, "d_ff": 12, "d_kv": 4, "num_layers": 2, "num_heads": 2},
    "WhisperForConditionalGeneration": {"model_type": "whisper", "vocab_size": 16, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 12, "decoder_ffn_dim": 12, "num_mel_bins": 4, "max_source_positions": 8, "max_target_positions": 8, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 0},
}  # fmt: skip


def _write(folder, architecture, **changes):
    config = {"architectures": [architecture], **SMALL[architecture], **changes}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _save(folder, architecture):
    settings = {key: value for key, value in SMALL[architecture].items() if key != "model_type"}
    model_class = getattr(transformers, architecture)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model_class(model_class.config_class(**settings)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("architecture", SMALL)
def test_config_and_headers_of_one_model_give_one_layout(tmp_path, architecture):
    saved = read_base(_save(tmp_path, architecture))
    described = layout_from_config(tmp_path)

    assert described.parameters == saved.parameters
    assert described.layout == saved.layout
    assert described.fingerprint is None
    assert described.architecture == architecture


@pytest.mark.parametrize(
    ("bare", "headed"), [("GPT2Model", "GPT2LMHeadModel"), ("BertModel", "BertForSequenceClassification")]
)
def test_a_body_has_the_same_names_with_and_without_its_head(tmp_path, bare, headed):
    body = layout_from_config(_write(tmp_path, bare)).parameters
    whole = layout_from_config(_write(tmp_path, headed)).parameters

    assert body.items() <= whole.items()


def test_a_tied_gpt2_is_its_body(tmp_path):
    body = layout_from_config(_write(tmp_path, "GPT2Model")).layout

    assert layout_from_config(_write(tmp_path, "GPT2LMHeadModel")).layout == body


def test_llama_parameters_are_those_of_the_published_architecture(tmp_path):
    parameters = layout_from_config(_write(tmp_path, "LlamaForCausalLM")).parameters

    assert parameters["layers.1.self_attn.k_proj.weight"] == (4, 8)
    assert parameters["embed_tokens.weight"] == parameters["lm_head.weight"] == (16, 8)
    assert len(parameters) == 2 * 9 + 3


@pytest.mark.parametrize(
    "key", ["trust_remote_code", "custom_pipelines"]
)  # fmt: skip
def test_a_config_that_asks_for_its_own_code_is_refused(tmp_path, key):
    with pytest.raises(BaseError, match=f"{key} asks for the author's own code, which is never run"):
        layout_from_config(_write(tmp_path, "GPT2Model", **{key: {"AutoModel": "evil.Evil"}}))


def test_code_keys_are_found_at_any_depth(tmp_path):
    with pytest.raises(BaseError, match=r"vision_config\.trust_remote_code"):
        layout_from_config(_write(tmp_path, "GPT2Model", vision_config={"trust_remote_code": True}))
    with pytest.raises(BaseError, match=r"parts\[0\]\.trust_remote_code"):
        layout_from_config(_write(tmp_path, "GPT2Model", parts=[{"trust_remote_code": True}]))


def test_auto_map_is_dropped_where_transformers_has_the_class_itself(tmp_path):
    own = layout_from_config(_write(tmp_path, "GPT2Model", auto_map={"AutoModel": "evil.Evil"}))

    assert own.parameters["wte.weight"] == (16, 8)
    assert "evil" not in sys.modules


def test_auto_map_of_an_unknown_class_is_named_as_the_reason(tmp_path):
    config = tmp_path / "config.json"
    config.write_text('{"architectures": ["EvilModel"], "model_type": "evil", "auto_map": {"AutoModel": "evil.Evil"}}')

    with pytest.raises(BaseError, match="named in auto_map, is never run"):
        layout_from_config(config)


def test_private_keys_reach_no_model(tmp_path):
    base = layout_from_config(
        _write(tmp_path, "GPT2Model", _attn_implementation_internal="evil/kernel", attn_implementation="evil/kernel")
    )

    assert base.parameters["wte.weight"] == (16, 8)


@pytest.mark.parametrize("architecture", ["os", "pipeline", "AutoModel", "PreTrainedModel", "GPT2Config", "__class__"])
def test_only_model_classes_can_be_named(tmp_path, architecture):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture], "model_type": "gpt2"}))

    with pytest.raises(BaseError, match="has no class for architecture"):
        layout_from_config(tmp_path)


def test_a_config_with_only_a_model_type_gives_the_body(tmp_path):
    config = SMALL["GPT2Model"]
    (tmp_path / "config.json").write_text(json.dumps(config))

    assert layout_from_config(tmp_path).layout == layout_from_config(_write(tmp_path, "GPT2Model")).layout


@pytest.mark.parametrize(
    "changes",
    [{"n_layer": 10**9}, {"text_config": {"num_local_experts": 10**9}}, {"num_labels": 10**9}, {"depths": [2, 10**9]}],
)
def test_sizes_that_no_model_has_are_refused(tmp_path, changes):
    with pytest.raises(BaseError, match="expected at most"):
        layout_from_config(_write(tmp_path, "GPT2Model", **changes))


@pytest.mark.parametrize("changes", [{"n_embd": "many"}, {"n_head": 3}, {"n_embd": -1}])
def test_a_config_that_does_not_build_is_an_error(tmp_path, changes):
    with pytest.raises(BaseError, match="cannot build it"):
        layout_from_config(_write(tmp_path, "GPT2Model", **changes))


def test_without_torch_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("engine.model.skeleton.find_spec", lambda name: None)

    with pytest.raises(MissingExtraError, match=r"adapter-registry\[engine\]"):
        layout_from_config(_write(tmp_path, "GPT2Model"))


def test_nothing_is_printed_and_no_socket_is_opened(tmp_path, monkeypatch, capfd):
    def refuse(*args):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    layout_from_config(_write(tmp_path, "T5ForConditionalGeneration", unknown_key=1))

    assert capfd.readouterr() == ("", "")


def test_a_large_model_takes_no_memory_and_little_time():
    config = CORPUS / "bases" / "Llama-3.1-8B-Instruct.config.json"
    if not config.is_file():
        pytest.skip("no corpus of strangers' files beside this checkout")
    layout_from_config(config)  # imports
    started = time.perf_counter()
    base = layout_from_config(config)

    assert time.perf_counter() - started < 3
    assert base.parameters["layers.31.mlp.down_proj.weight"] == (4096, 14336)
    assert len(base.parameters) == 32 * 9 + 3


# What stands in the way of the others: a class that only the author has, or no architecture named at all.
REFUSED = {
    "chatglm-6b": "auto_map", "laneformer-2B": "auto_map", "gpt2-JOSASA-old3": "no class", "roberta-base_no-model_type": "no class",
}  # fmt: skip


def test_strangers_configs_build_or_are_refused_by_name():
    paths = sorted((CORPUS / "bases").glob("*.config.json"))
    if not paths:
        pytest.skip("no corpus of strangers' files beside this checkout")
    refused = {}
    for path in paths:
        try:
            assert layout_from_config(path).parameters
        except BaseError as error:
            refused[path.name.removesuffix(".config.json")] = error.reason

    assert refused.keys() == REFUSED.keys()
    assert all(REFUSED[name] in reason for name, reason in refused.items())


def test_a_real_checkpoint_and_its_config_agree():
    folder = CORPUS / "weights" / "base-checkpoints" / "sshleifer__tiny-gpt2"
    if not folder.is_dir():
        pytest.skip("no corpus of strangers' files beside this checkout")

    assert layout_from_config(folder).layout == read_base(folder).layout


def test_importing_the_module_imports_no_torch():
    import subprocess

    code = "import engine.model.skeleton, sys; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
