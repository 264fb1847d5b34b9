"""Below which name a model's layers lie: what PEFT passes over is an error, what some class of the base has is none."""

import importlib
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from engine.compat.check import check_adapter
from engine.compat.rules.bodies import BODIES
from tests.engine.compat.small_adapter import CONFIG, adapter, base, tensors


def _renamed(prefix):
    return {
        name.replace("base_model.model.model.", f"base_model.model.{prefix}"): one for name, one in tensors().items()
    }


def _said(tmp_path, prefix, task, architecture="LlamaForCausalLM", **known):
    facts = adapter(tmp_path / "a", config={**CONFIG, "task_type": task}, weights=_renamed(prefix))
    known_base = base(tmp_path / "b", architectures=[architecture], **known)
    return [one.severity for one in check_adapter(facts, base=known_base) if one.rule == "base-prefix"]


@pytest.mark.parametrize(
    ("prefix", "task", "said"),
    [
        ("model.", "CAUSAL_LM", []),
        ("model.", None, []),
        ("model._orig_mod.", "CAUSAL_LM", []),  # another rule's
        ("", "CAUSAL_LM", ["error"]),
        ("", "SEQ_CLS", ["error"]),
        ("", "FEATURE_EXTRACTION", []),  # AutoModel has the body alone
        ("", None, []),
        ("model.language_model.", "CAUSAL_LM", ["error"]),
        ("language_model.model.", None, ["error"]),
        ("transformer.", "FEATURE_EXTRACTION", ["error"]),
        ("transformer.", "QUESTION_ANS", []),  # LlamaForQuestionAnswering has it there
    ],
)
def test_layers_lie_below_the_name_that_the_bases_class_has(tmp_path, prefix, task, said):
    assert _said(tmp_path, prefix, task) == said


def test_nothing_is_said_of_a_bare_body_or_an_unlisted_family(tmp_path):
    assert _said(tmp_path / "1", "", "CAUSAL_LM", "LlamaModel") == []
    assert _said(tmp_path / "2", "", "CAUSAL_LM", model_type="qwen2_5_vl") == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("prefix", "changes"), [("model.", True), ("", False), ("model.language_model.", False)])
def test_peft_computes_the_base_where_the_rule_speaks(tmp_path, prefix, changes):
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    small = transformers.LlamaConfig(
        vocab_size=10, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(small)
    generator = np.random.default_rng(0)
    save_file(
        {
            f"base_model.model.{prefix}layers.0.self_attn.q_proj.lora_{side}.weight": generator.standard_normal(
                shape
            ).astype(np.float32)
            for side, shape in (("A", (2, 8)), ("B", (8, 2)))
        },
        tmp_path / "adapter_model.safetensors",
    )
    config = {**CONFIG, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    tokens = torch.tensor([[1, 2, 3]])
    before = model(tokens).logits.detach().clone()

    adapted = peft.PeftModel.from_pretrained(model, str(tmp_path))

    assert bool((adapted(tokens).logits != before).any()) is changes


# Some of these modules warn when they are imported.
@pytest.mark.filterwarnings("ignore")
def test_the_table_says_what_the_installed_classes_say():
    transformers = pytest.importorskip("transformers")
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert transformers.__version__
    stated = {}
    for kind in BODIES:
        name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]
        folder = transformers.models.auto.configuration_auto.model_type_to_module_name(kind)
        module = importlib.import_module(f"transformers.models.{folder}.modeling_{folder}")
        stated[kind] = getattr(module, name).base_model_prefix

    assert stated == BODIES
