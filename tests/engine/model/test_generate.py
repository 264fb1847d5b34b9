"""Generation with an adapter for every row: like one adapter at a time, like PEFT, and like the base where it is named."""

import threading
import warnings

import pytest
import torch
from peft import PeftModel
from transformers import (
    GenerationConfig,
    T5Config,
    T5ForConditionalGeneration,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from engine.errors import BatchError, UnknownAdapterError
from engine.model.runtime import Runtime
from tests.engine.model.live import llama, lora_folder

NAMES = ["b", "__base__", "a", "b"]
IDS = torch.tensor([[3, 9, 27, 17, 51], [1, 2, 4, 8, 16], [5, 25, 61, 49, 53], [7, 6, 5, 4, 3]])
MODES = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "beams returned": {"num_beams": 3, "num_return_sequences": 2},
    "sampled": {"do_sample": True, "temperature": 0.7},
    "sampled twice": {"do_sample": True, "num_return_sequences": 2},
}


def t5():
    torch.manual_seed(0)
    config = T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0)
    return T5ForConditionalGeneration(config).eval()


def whisper():
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=64, d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=48, decoder_ffn_dim=48, num_mel_bins=8, max_source_positions=20, max_target_positions=40,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config).eval()
    model.generation_config = GenerationConfig(decoder_start_token_id=1, bos_token_id=1, pad_token_id=0)
    return model


MODELS = {
    "llama": (llama, ["q_proj", "v_proj", "down_proj"], {"inputs": IDS}),
    "t5": (t5, ["q", "v", "wo"], {"inputs": IDS}),
    "whisper": (whisper, ["q_proj", "v_proj", "fc1"], {"input_features": torch.linspace(-1, 1, 4 * 8 * 40).sin().view(4, 8, 40)}),
}  # fmt: skip
LENGTHS = {"max_new_tokens": 8, "min_new_tokens": 8, "eos_token_id": None}


def _generate(model, names=None, **inputs):
    torch.manual_seed(3)
    extra = {} if names is None else {"adapter_names": names}
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.generate(**{**LENGTHS, **inputs}, **extra, pad_token_id=0)


@pytest.fixture(scope="module", params=MODELS)
def served(request, tmp_path_factory):
    """(a runtime with adapters a and b, the same of PEFT, the base, the inputs of four rows)."""
    make, targets, inputs = MODELS[request.param]
    folder, model = tmp_path_factory.mktemp("adapters"), make()
    for seed, name in enumerate("ab", start=1):
        lora_folder(folder / name, model, seed=seed, target_modules=targets)
    theirs = PeftModel.from_pretrained(make(), folder / "a", adapter_name="a").eval()
    theirs.load_adapter(folder / "b", adapter_name="b")
    runtime = Runtime(model)
    for name in "ab":
        runtime.load(name, folder / name)
    return runtime, theirs, make(), inputs


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_every_row_gets_the_tokens_that_peft_gives_it(served, mode):
    """PEFT knows beams, but no rows that sampling (or Whisper) repeats: there it is given the repeated rows."""
    runtime, theirs, _, inputs = served
    repeats = mode.get("do_sample") or "input_features" in inputs
    times = mode.get("num_return_sequences", 1) if repeats else 1
    repeated = {name: tensor.repeat_interleave(times, 0) for name, tensor in inputs.items()}
    theirs_mode = {**mode, "num_return_sequences": 1} if repeats else mode

    found = _generate(runtime, NAMES, **inputs, **mode)

    names = [name for name in NAMES for _ in range(times)]
    assert torch.equal(found, _generate(theirs, names, **repeated, **theirs_mode))


@pytest.mark.parametrize("mode", ["greedy", "beams"])
def test_every_row_gets_the_tokens_that_it_gets_with_its_adapter_for_all(served, mode):
    runtime, _, base, inputs = served
    found = _generate(runtime, NAMES, **inputs, **MODES[mode])
    alone = {"__base__": _generate(base, **inputs, **MODES[mode])}
    for name in "ab":
        runtime.activate(name)
        alone[name] = _generate(runtime, **inputs, **MODES[mode])
    runtime.activate(None)

    assert torch.equal(found, torch.stack([alone[name][row] for row, name in enumerate(NAMES)]))
    assert not torch.equal(alone["a"], alone["b"]), "the adapters make no difference: nothing is shown"


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_base_rows_have_the_bases_bits_at_every_step(served, mode):
    runtime, _, base, inputs = served
    seen = {}
    for model, names in ((runtime.model, NAMES), (base, None)):
        steps = seen[model] = []
        hook = model.register_forward_hook(lambda module, args, output, steps=steps: steps.append(output.logits))
        _generate(runtime if names else base, names, **inputs, **mode)
        hook.remove()

    assert len(seen[base]) >= 8
    for ours, theirs in zip(seen[runtime.model], seen[base], strict=True):
        times = len(ours) // 4
        assert torch.equal(ours[times : 2 * times], theirs[times : 2 * times])


def test_names_in_any_order_give_rows_in_that_order(served):
    runtime, _, _, inputs = served
    order = torch.tensor([2, 0, 3, 1])
    turned = {name: tensor[order] for name, tensor in inputs.items()}

    found = _generate(runtime, [NAMES[row] for row in order], **turned)

    assert torch.equal(found, _generate(runtime, NAMES, **inputs)[order])


@pytest.mark.parametrize("cache", ["dynamic", "static", "offloaded", "offloaded_static"])
def test_every_cache_serves_mixed_rows(served, cache):
    runtime, theirs, _, inputs = served
    if cache.startswith("offloaded") and not torch.cuda.is_available():
        pytest.skip("transformers offloads caches from an accelerator only")

    found = _generate(runtime, NAMES, **inputs, cache_implementation=cache)

    assert torch.equal(found, _generate(theirs, NAMES, **inputs))


def test_threads_name_adapters_of_their_own(served):
    runtime, _, _, inputs = served
    wanted = [["a"] * 4, ["b"] * 4, NAMES, ["__base__"] * 4]
    expected = [_generate(runtime, names, **inputs) for names in wanted]
    found = {}
    meet = threading.Barrier(len(wanted))

    def run(place):
        meet.wait()
        found[place] = runtime.generate(**inputs, **LENGTHS, adapter_names=wanted[place], pad_token_id=0)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(wanted))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for place, sequences in enumerate(expected):
        assert torch.equal(found[place], sequences)


@pytest.mark.parametrize("call", ["__call__", "generate"])
def test_as_many_names_as_rows_are_asked_for(served, call):
    runtime, _, _, inputs = served
    given = {"input_ids": inputs["inputs"]} if "inputs" in inputs else inputs
    for names in (["a"], ["a", "b"], ["a"] * 8):
        with pytest.raises(BatchError, match=f"expected one adapter name for each of 4 rows, found {len(names)}"):
            getattr(runtime, call)(**given, adapter_names=names)
    assert runtime.active == ()


def test_an_unknown_name_is_told_before_anything_runs(served):
    runtime, _, _, inputs = served
    with pytest.raises(UnknownAdapterError, match="no adapter 'c' is loaded; loaded: a, b"):
        runtime.generate(**inputs, adapter_names=["a", "b", "c", "a"])


def test_training_mode_is_refused(served):
    runtime, _, _, inputs = served
    runtime.model.train()
    try:
        with pytest.raises(BatchError, match="needs eval mode"):
            runtime.generate(**inputs, adapter_names=NAMES)
    finally:
        runtime.model.eval()


class Regrouped(torch.nn.Module):
    """Two rows of ten numbers, which its second layer sees as five rows of four."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(10, 10), torch.nn.Linear(4, 4)

    def forward(self, x):
        return self.second(self.first(x).view(5, 4))


def test_a_module_that_gets_other_rows_is_named(tmp_path):
    model = Regrouped().eval()
    runtime = Runtime(model)
    runtime.load("a", lora_folder(tmp_path / "a", model, target_modules=["first", "second"]))

    with pytest.raises(BatchError, match="second: got 5 rows, expected a multiple of the batch's 2"):
        runtime(torch.zeros(2, 10), adapter_names=["a", "__base__"])


def test_long_recordings_of_several_rows_are_refused(tmp_path):
    model = whisper()
    runtime = Runtime(model)
    runtime.load("a", lora_folder(tmp_path / "a", model))

    with pytest.raises(BatchError, match="expected at most 40 frames, found 60"):
        runtime.generate(input_features=torch.zeros(2, 8, 60), adapter_names=["a", "__base__"])
