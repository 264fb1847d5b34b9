"""A base becomes the model of an adapter's task: what PEFT and plain transformers make of the same files is the judge."""

import copy
import json
import warnings

import pytest
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from engine.errors import RefusedError, WrongBytesError
from engine.materialize import Request, Source, materialize
from engine.materialize.verify import verify
from tests.engine.materialize.matching.judge import close, merged, saved, tensors
from tests.engine.model.live import LLAMA, llama, lora_folder

WEIGHTS = "adapter_model.safetensors"
BERT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64, "n_positions": 32, "pad_token_id": 0}
T5 = {
    "d_model": 32,
    "d_ff": 48,
    "d_kv": 8,
    "num_layers": 2,
    "num_heads": 4,
    "vocab_size": 64,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
}
PIXELS = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
WORDS = torch.cat([torch.arange(2, 17).reshape(3, 5), torch.ones(3, 1, dtype=torch.long)], 1)  # T5 wants an end each
TEXTS, TOKENS, ANSWERS, IMAGES = (
    hf.AutoModelForSequenceClassification,
    hf.AutoModelForTokenClassification,
    hf.AutoModelForQuestionAnswering,
    hf.AutoModelForImageClassification,
)


REPEATED = "llama, repeated"


def mixtral():
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1, "pad_token_id": 0}
    return hf.MixtralForCausalLM(hf.MixtralConfig(**LLAMA, **experts))


def distilbert():
    sizes = {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "vocab_size": 64}
    return hf.DistilBertForMaskedLM(hf.DistilBertConfig(**sizes))


def vit():
    sizes = {key: BERT[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")}
    return hf.ViTModel(hf.ViTConfig(**sizes, image_size=16, patch_size=8))


CASES = {
    "llama": (lambda: llama(pad_token_id=0), TEXTS, {"target_modules": ["q_proj"]}),
    "llama, tied": (lambda: llama(pad_token_id=0, tie_word_embeddings=True), TEXTS, {"target_modules": ["q_proj"]}),
    "llama's body": (lambda: llama(pad_token_id=0).model, TEXTS, {"target_modules": ["q_proj"], "use_dora": True}),
    "llama's tokens": (lambda: llama(pad_token_id=0), TOKENS, {"target_modules": ["q_proj"]}),
    "llama's body's answers": (lambda: llama(pad_token_id=0).model, ANSWERS, {"target_modules": ["q_proj"]}),
    REPEATED: (
        lambda: llama(pad_token_id=0),
        TEXTS,
        {"target_modules": ["q_proj"], "layer_replication": [(0, 2), (1, 2)]},
    ),
    "llama with new tokens": (
        lambda: llama(pad_token_id=0),
        TEXTS,
        {"target_modules": ["q_proj"], "trainable_token_indices": [3, 9]},
    ),
    "qwen2": (
        lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**LLAMA, pad_token_id=0)),
        TEXTS,
        {"target_modules": "all-linear"},
    ),
    "mixtral": (mixtral, TEXTS, {"target_modules": ["q_proj"]}),
    "gpt2": (lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2)), TEXTS, {"target_modules": ["c_attn"]}),
    "gpt2's body": (lambda: hf.GPT2Model(hf.GPT2Config(**GPT2)), TEXTS, {"target_modules": ["c_attn"]}),
    "bert's body": (lambda: hf.BertModel(hf.BertConfig(**BERT)), TEXTS, {"target_modules": ["query", "dense"]}),
    "bert with its own pooler": (
        lambda: hf.BertForMaskedLM(hf.BertConfig(**BERT)),
        TEXTS,
        {"target_modules": ["query"], "modules_to_save": ["pooler", "classifier"]},
    ),
    "bert's tokens": (
        lambda: hf.BertForMaskedLM(hf.BertConfig(**BERT)),
        TOKENS,
        {"target_modules": ["query"], "bias": "all"},
    ),
    "bert's answers": (lambda: hf.BertForMaskedLM(hf.BertConfig(**BERT)), ANSWERS, {"target_modules": ["query"]}),
    "roberta": (lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**BERT)), TEXTS, {"target_modules": ["query"]}),
    "roberta with another head": (
        lambda: hf.RobertaForSequenceClassification(hf.RobertaConfig(**BERT)),
        TEXTS,
        {"target_modules": ["query"]},
    ),
    "llama with another head": (
        lambda: hf.LlamaForSequenceClassification(hf.LlamaConfig(**LLAMA, pad_token_id=0, num_labels=5)),
        TEXTS,
        {"target_modules": ["q_proj"]},
    ),
    "distilbert": (distilbert, TEXTS, {"target_modules": ["q_lin"]}),
    "t5": (
        lambda: hf.T5ForConditionalGeneration(hf.T5Config(**T5)),
        TEXTS,
        {"target_modules": ["q"], "modules_to_save": ["classification_head"]},
    ),
    "vit, without a task": (vit, IMAGES, {"target_modules": ["q_proj"], "modules_to_save": ["classifier"]}),
}
TASKS = {TEXTS: "SEQ_CLS", TOKENS: "TOKEN_CLS", ANSWERS: "QUESTION_ANS"}


def made(name, folder, *, labels=3, seed=1, **config):
    """The base of a case on disk, an adapter with a head for it, and PEFT's model with that adapter on."""
    make, auto, settings = CASES[name]
    base, adapter = folder / "base", folder / f"adapter{seed}"
    if not base.exists():
        torch.manual_seed(0)
        saved(make(), base, max_shard_size="20KB")
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sized = {} if auto is ANSWERS else {"num_labels": labels, "ignore_mismatched_sizes": True}
        model = auto.from_pretrained(base, **sized)
        settings = {"r": 4, "init_lora_weights": False, "task_type": TASKS.get(auto), **settings, **config}
        wrapped = get_peft_model(model, LoraConfig(**settings))
        for path, parameter in wrapped.named_parameters():
            if "modules_to_save" in path:
                torch.nn.init.normal_(parameter, 0.0, 0.3)
        wrapped.save_pretrained(adapter)
    return base, adapter, wrapped.eval()


def theirs(name, wrapped):
    """PEFT's merged model; its merge of repeated layers adds to what they share (and transformers does not
    save that), so those stay apart.
    """
    return wrapped if name == REPEATED else copy.deepcopy(wrapped).merge_and_unload()


def scores(model):
    """All numbers that the head gives."""
    images = model.main_input_name == "pixel_values"
    with torch.inference_mode():
        found = model(PIXELS if images else WORDS)
    return torch.stack([found.start_logits, found.end_logits]) if "start_logits" in found else found.logits


def plain(auto, folder):
    """What transformers loads: nothing is missing, left over or of another shape."""
    model, told = auto.from_pretrained(folder, output_loading_info=True)
    assert {key: list(names) for key, names in told.items() if names} == {}
    return model.eval()


def refused(base, folders, to, **options):
    with pytest.raises(RefusedError) as caught:
        merged(base, folders, to / "out", **options)
    assert not (to / "out").exists()
    return [(finding.rule, finding.message) for finding in caught.value.findings]


def changed(folder, **tensors_):
    """The adapter with these tensors in place of its own; None takes one away."""
    held = load_file(folder / WEIGHTS) | tensors_
    save_file({name: one for name, one in held.items() if one is not None}, folder / WEIGHTS)


def configured(folder, **keys):
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | keys))


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


@pytest.fixture(scope="module", params=list(CASES))
def case(request, tmp_path_factory):
    """Name, base, adapter, PEFT's model unmerged, and the result in shards."""
    folder = tmp_path_factory.mktemp("case")
    base, adapter, wrapped = made(request.param, folder)
    return request.param, base, adapter, wrapped, merged(base, [adapter], folder / "out", shard_size=20_000)


def test_plain_transformers_gives_the_scores_of_peft(case):
    name, _, _, wrapped, result = case
    assert len(list(result.glob("*.safetensors"))) > 1
    close(scores(plain(CASES[name][1], result)), scores(theirs(name, wrapped)))


@pytest.mark.parametrize("case", [name for name in CASES if name != REPEATED], indirect=True)
def test_names_numbers_and_config_are_those_that_transformers_writes(case, tmp_path):
    name, _, _, wrapped, result = case
    saved(theirs(name, wrapped), tmp_path / "theirs")
    found, expected = tensors(result), tensors(tmp_path / "theirs")
    assert found.keys() == expected.keys()
    for path, one in found.items():
        close(one, expected[path])
    assert config_of(result) == config_of(tmp_path / "theirs")


def test_in_one_file_it_is_the_same(tmp_path):
    base, adapter, _ = made("roberta", tmp_path)
    one, many = merged(base, [adapter], tmp_path / "one"), merged(base, [adapter], tmp_path / "many", shard_size=9000)
    assert [path.name for path in one.glob("*.safetensors*")] == ["model.safetensors"]
    found, expected = tensors(one), tensors(many)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert [path.name for path in many.glob("*.json")].count("model.safetensors.index.json") == 1


def test_a_head_takes_the_dtype_of_the_base_in_one_rounding(tmp_path):
    """The adapter's head is float32, as training in bfloat16 with float32 adapters leaves it."""
    _, adapter, _ = made("llama", tmp_path)
    low = saved(llama(pad_token_id=0).bfloat16(), tmp_path / "low")
    head = load_file(adapter / "adapter_model.safetensors")["base_model.model.score.weight"]
    assert head.dtype == torch.float32
    kept, wide = (tensors(merged(low, [adapter], tmp_path / str(dtype), dtype=dtype)) for dtype in (None, "float32"))
    assert torch.equal(kept["score.weight"], head.bfloat16())
    assert not torch.equal(kept["score.weight"].float(), head)
    assert torch.equal(wide["score.weight"], head)
    assert {one.dtype for one in kept.values()} == {torch.bfloat16}


def test_what_is_left_of_the_base_keeps_its_bits(tmp_path):
    base, adapter, _ = made("bert's body", tmp_path)
    before, after = tensors(base), tensors(merged(base, [adapter], tmp_path / "out"))
    assert torch.equal(after["bert.embeddings.word_embeddings.weight"], before["embeddings.word_embeddings.weight"])
    untouched = [name for name in before if not name.endswith(("query.weight", "dense.weight"))]
    assert len(untouched) > 20
    assert all(torch.equal(after[f"bert.{name}"], before[name]) for name in untouched)


def test_report_manifest_and_card_tell_of_the_class(tmp_path):
    base, adapter, _ = made("llama", tmp_path)
    done = materialize(Request(base=base, sources=(Source(adapter),)), tmp_path / "out")
    told = {
        "architecture": "LlamaForSequenceClassification",
        "of_base": "LlamaForCausalLM",
        "brought": ["score.weight"],
        "left_out": ["lm_head.weight"],
    }
    assert done.report["headed"] == told
    assert done.report["replaced"] == 1
    assert json.loads((tmp_path / "out" / "materialize.json").read_text())["headed"] == told
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Class: `LlamaForSequenceClassification`, of the base: `LlamaForCausalLM`." in card
    assert "From the adapter: `score.weight`. Left out of the base: `lm_head.weight`." in card


def test_nothing_is_told_where_the_class_is_the_base_s(tmp_path):
    adapter = lora_folder(tmp_path / "adapter", llama())
    base = saved(llama(), tmp_path / "base")
    done = materialize(Request(base=base, sources=(Source(adapter),)), tmp_path / "out")
    assert "headed" not in done.report
    assert "headed" not in json.loads((tmp_path / "out" / "materialize.json").read_text())
    assert "Class:" not in (tmp_path / "out" / "README.md").read_text()


def test_a_result_of_another_class_is_verified_from_files(tmp_path):
    base, adapter, _ = made("bert's body", tmp_path)
    folder = merged(base, [adapter], tmp_path / "out")
    report = verify(folder, base, [Source(adapter)]).report
    assert report["headed"]["architecture"] == "BertForSequenceClassification"
    assert report["kept"] == pytest.approx(1, abs=1e-3)
    text = (folder / "materialize.json").read_text()
    (folder / "materialize.json").write_text(text.replace('"of_base": "BertModel"', '"of_base": "BertOther"'))
    with pytest.raises(WrongBytesError, match=r"materialize\.json"):
        verify(folder)


def test_a_result_without_a_head_needs_none(tmp_path):
    """An adapter for a task that brings no head is factors alone: the base stays what it is."""
    base = saved(llama(), tmp_path / "base")
    adapter = lora_folder(tmp_path / "adapter", llama(), task_type="SEQ_CLS")
    assert config_of(merged(base, [adapter], tmp_path / "out"))["architectures"] == ["LlamaForCausalLM"]


def test_another_copy_of_the_body_is_no_head(tmp_path):
    model = llama()
    base = saved(model, tmp_path / "base")
    adapter = lora_folder(tmp_path / "adapter", model, modules_to_save=["model.norm"])
    configured(adapter, task_type="SEQ_CLS", auto_mapping=None)
    assert config_of(merged(base, [adapter], tmp_path / "out"))["architectures"] == ["LlamaForCausalLM"]


def test_a_classifier_of_tokens_becomes_one_of_texts(tmp_path):
    """Both have a `score` of one shape; that of tokens has a bias besides, which is left out."""
    config = hf.LlamaConfig(**LLAMA, pad_token_id=0)
    torch.manual_seed(0)
    base = saved(hf.LlamaForTokenClassification(config), tmp_path / "base")
    adapter = lora_folder(
        tmp_path / "adapter", hf.LlamaForSequenceClassification(config), task_type="SEQ_CLS", modules_to_save=["score"]
    )
    done = materialize(Request(base=base, sources=(Source(adapter),)), tmp_path / "out")
    assert config_of(tmp_path / "out")["architectures"] == ["LlamaForSequenceClassification"]
    assert done.report["headed"]["left_out"] == ["score.bias"]
    plain(TEXTS, tmp_path / "out")


def test_factors_of_another_adapter_join_a_head(tmp_path):
    base, one, _ = made("llama", tmp_path)
    other = lora_folder(tmp_path / "other", llama(), target_modules=["down_proj"], task_type="CAUSAL_LM")
    both = tensors(merged(base, [other, one], tmp_path / "both"))
    ones, others = (tensors(merged(base, [only], tmp_path / only.name / "out")) for only in (one, other))
    assert both.keys() == ones.keys() == {*others, "score.weight"} - {"lm_head.weight"}
    for name, tensor in both.items():
        assert torch.equal(tensor, (others if "down_proj" in name else ones)[name])


def test_two_adapters_may_have_one_head(tmp_path):
    base, adapter, _ = made("llama", tmp_path)
    _, other, _ = made("llama", tmp_path, seed=2)
    head = {"base_model.model.score.weight": load_file(adapter / WEIGHTS)["base_model.model.score.weight"]}
    save_file(load_file(other / WEIGHTS) | head, other / WEIGHTS)
    result = tensors(merged(base, [adapter, other], tmp_path / "out", weights=[0.5, 0.5]))
    assert torch.equal(result["score.weight"], head["base_model.model.score.weight"])


LABELS = {
    "as many": ({"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}, ["a", "b", "c"]),
    "fewer": ({"id2label": {"0": "a"}, "label2id": {"a": 0}}, ["LABEL_0", "LABEL_1", "LABEL_2"]),
    "none": ({}, ["LABEL_0", "LABEL_1", "LABEL_2"]),
    "a number": ({"num_labels": 3}, None),
    "another number": ({"num_labels": 5}, ["LABEL_0", "LABEL_1", "LABEL_2"]),
    "as many, by number fewer": (
        {"num_labels": 2, "id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2}},
        ["LABEL_0", "LABEL_1", "LABEL_2"],
    ),
    "fewer, by number as many": (
        {"num_labels": 3, "id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}},
        ["LABEL_0", "LABEL_1", "LABEL_2"],
    ),
}


@pytest.mark.parametrize("case_", list(LABELS))
def test_labels_keep_their_names_where_they_are_as_many(case_, tmp_path):
    stated, names = LABELS[case_]
    base, adapter, _ = made("llama", tmp_path)
    (base / "config.json").write_text(json.dumps(config_of(base) | stated))
    config = config_of(merged(base, [adapter], tmp_path / "out"))
    assert config.get("id2label") == (names and {str(place): name for place, name in enumerate(names)})
    assert config.get("label2id") == (names and {name: place for place, name in enumerate(names)})
    assert plain(TEXTS, tmp_path / "out").num_labels == 3


def test_a_head_of_one_number(tmp_path):
    """A regression: labels are one, which transformers would not take from a config that says nothing."""
    base, adapter, wrapped = made("llama", tmp_path, labels=1)
    result = merged(base, [adapter], tmp_path / "out")
    assert config_of(result)["id2label"] == {"0": "LABEL_0"}
    close(scores(plain(TEXTS, result)), scores(wrapped))


def test_a_pooler_that_was_random_in_training_is_not_made_up(tmp_path):
    base, adapter, _ = made("bert with its own pooler", tmp_path)
    pooler = dict.fromkeys(f"base_model.model.bert.pooler.dense.{one}" for one in ("weight", "bias"))
    changed(adapter, **pooler)
    why = (
        "BertForSequenceClassification has it, neither the base nor the adapter does; what it was in training was not"
        " saved (name it in modules_to_save)"
    )
    assert refused(base, [adapter], tmp_path) == [
        ("head-missing", f"bert.pooler.dense.{one}: {why}") for one in ("weight", "bias")
    ]


def test_a_body_that_transformers_would_not_find_is_not_made_up(tmp_path):
    """Llama's class for answers calls its body `transformer`, and loads none from a checkpoint that says `model`."""
    base = saved(llama(), tmp_path / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, told = ANSWERS.from_pretrained(base, output_loading_info=True)
    adapter = lora_folder(tmp_path / "adapter", model, task_type="QUESTION_ANS", target_modules=["q_proj"])
    found = refused(base, [adapter], tmp_path)
    assert {rule for rule, _ in found} == {"head-missing"}
    assert {message.partition(":")[0] for _, message in found} == set(told["missing_keys"]) - {
        "qa_outputs.weight",
        "qa_outputs.bias",
    }


def test_half_a_head_is_refused(tmp_path):
    base, adapter, _ = made("bert's body", tmp_path)
    changed(adapter, **{"base_model.model.classifier.bias": None})
    assert [(rule, text[:15]) for rule, text in refused(base, [adapter], tmp_path)] == [
        ("head-missing", "classifier.bias")
    ]


@pytest.mark.parametrize("shape", [(3, 31), (3, 32, 1), (0, 32), (96,), ()])
def test_a_head_that_does_not_fit(shape, tmp_path):
    base, adapter, _ = made("llama", tmp_path)
    name = "base_model.model.score.weight"
    changed(adapter, **{name: torch.zeros(shape)})
    expected = ("base-shape", f"{name}: expected [2, 32], found {list(shape)}")
    assert refused(base, [adapter], tmp_path) == [expected]


def test_two_heads_are_refused(tmp_path):
    base, one, _ = made("llama", tmp_path)
    _, other, _ = made("llama", tmp_path, seed=2)
    _, wider, _ = made("llama", tmp_path, labels=5, seed=3)
    assert refused(base, [one, other], tmp_path) == [
        ("own-clash", "score.weight: two adapters have different copies of it; only one can be on")
    ]
    assert refused(base, [one, wider], tmp_path) == [
        ("own-clash", "score.weight: two adapters have different copies of it, [3, 32] and [5, 32]; only one can be on")
    ]


def test_an_adapter_that_is_off_brings_no_head(tmp_path):
    base, one, _ = made("llama", tmp_path)
    _, other, _ = made("llama", tmp_path, seed=2)
    result = tensors(merged(base, [one, other], tmp_path / "on", weights=[0.0, 1.0]))
    assert torch.equal(result["score.weight"], load_file(other / WEIGHTS)["base_model.model.score.weight"])
    assert refused(base, [one], tmp_path, weights=[0.0]) == [
        ("base-module-absent", "score.weight: the base has no such tensor")
    ]


def test_heads_of_two_models_are_refused(tmp_path):
    base, one, _ = made("llama", tmp_path)
    model = hf.LlamaForTokenClassification(hf.LlamaConfig(**LLAMA))
    other = lora_folder(tmp_path / "other", model, task_type="TOKEN_CLS", target_modules=["q_proj"])
    found = "adapter1 of LlamaForSequenceClassification and other of LlamaForTokenClassification"
    message = f"architectures: expected heads of one model, found {found}; materialise them apart"
    assert refused(base, [one, other], tmp_path) == [("head-class", message)]


def test_a_class_that_transformers_does_not_have_changes_nothing(tmp_path):
    base, adapter, _ = made("llama", tmp_path)
    for noted in (None, {"base_model_class": "Llama"}, {"base_model_class": "BertForSequenceClassification"}, "x"):
        configured(adapter, task_type=None, auto_mapping=noted)
        assert [rule for rule, _ in refused(base, [adapter], tmp_path)] == ["base-module-absent"]
    configured(adapter, task_type="SEQ_CLS", auto_mapping=None)
    (base / "config.json").write_text(json.dumps(config_of(base) | {"model_type": "other"}))
    assert [rule for rule, _ in refused(base, [adapter], tmp_path)] == ["base-module-absent"]
