"""The smaller rules of matching, each by the one case that tells it."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, TrainableTokensConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from engine.errors import RefusedError
from engine.format.adapter import read_adapter
from engine.materialize.matching import outputs
from engine.materialize.matching.frame import framed
from engine.materialize.matching.same import same_numbers
from engine.materialize.matching.seats import Seats
from engine.materialize.request import Source
from engine.materialize.stored.checkpoint import read_checkpoint
from engine.materialize.stored.place import Place
from tests.engine.materialize.matching.judge import beside, close, merged, out, saved, tensors
from tests.engine.model.kinds import oracle
from tests.engine.model.live import llama, lora_folder
from tests.engine.model.test_replaced import mixtral


def stored(model, folder):
    """A base that is no transformers model."""
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder


def changed(folder, tensors_, **config):
    """The adapter with more tensors and other settings."""
    file, settings = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    save_file(load_file(file) | tensors_, file)
    settings.write_text(json.dumps(json.loads(settings.read_text()) | config))
    return folder


def rules(base, folder, to):
    with pytest.raises(RefusedError) as caught:
        merged(base, [folder], to / "out")
    return [(finding.rule, finding.message) for finding in caught.value.findings]


class Twins(nn.Module):
    """Two parameters of one shape, which nothing in an adapter's file tells apart."""

    def __init__(self):
        super().__init__()
        self.second = nn.Parameter(torch.randn(6, 8))
        self.first = nn.Parameter(torch.randn(6, 8))

    def forward(self, x):
        return x @ self.second.t() + (x @ self.first.t()).tanh()


class Holder(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner = Twins()

    def forward(self, x):
        return self.inner(x)


def test_parameters_of_one_shape_in_a_model_that_nobody_knows_are_refused(tmp_path):
    folder = lora_folder(tmp_path / "a", Holder(), target_modules=[], target_parameters=["inner.second", "inner.first"])
    assert rules(stored(Holder(), tmp_path / "base"), folder, tmp_path) == [
        ("own-kind", "inner: which factors are of which of its parameters ['first', 'second'] cannot be told")
    ]


def test_one_of_two_parameters_of_one_shape_is_known_by_its_name(tmp_path):
    folder = lora_folder(tmp_path / "a", Holder(), target_modules=[], target_parameters=["inner.second"])
    found = Holder()
    found.load_state_dict(tensors(merged(stored(Holder(), tmp_path / "base"), [folder], tmp_path / "out")))
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    close(out(found, x), out(beside(Holder(), [folder]), x))


def test_parameters_of_one_shape_are_told_apart_by_their_ranks(tmp_path):
    """Of ranks 3 and 5 only one order fits the shapes that the config gives."""
    patterns = {"rank_pattern": {"inner.second": 3, "inner.first": 5}}
    folder = lora_folder(
        tmp_path / "a", Holder(), target_modules=[], target_parameters=["inner.second", "inner.first"], **patterns
    )
    found = Holder()
    found.load_state_dict(tensors(merged(stored(Holder(), tmp_path / "base"), [folder], tmp_path / "out")))
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    close(out(found, x), out(beside(Holder(), [folder]), x))


def test_a_parameter_takes_no_bias_of_lora(tmp_path):
    folder = lora_folder(tmp_path / "a", Holder(), target_modules=[], target_parameters=["inner.second"])
    name = "base_model.model.inner.lora_B.bias"
    changed(folder, {name: torch.zeros(6)}, lora_bias=True)
    assert rules(stored(Holder(), tmp_path / "base"), folder, tmp_path) == [
        ("own-part", f"inner.second: cannot merge {name} into a parameter")
    ]


def test_a_vector_is_no_parameter_for_factors(tmp_path):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Module()
            self.inner.W = nn.Parameter(torch.randn(6, 8))

    folder = lora_folder(tmp_path / "a", Scaled(), target_modules=[], target_parameters=["inner.W"])
    model = Scaled()
    model.inner.W = nn.Parameter(torch.randn(8))
    assert rules(stored(model, tmp_path / "base"), folder, tmp_path) == [
        ("own-kind", "inner.W: expected a parameter of 2 or 3 dimensions of plain numbers, found 1 dimensions")
    ]


def test_factors_of_a_parameter_are_floating(tmp_path):
    folder = lora_folder(tmp_path / "a", mixtral(), target_modules=[], target_parameters=["experts.down_proj"])
    held = load_file(folder / "adapter_model.safetensors")
    name = next(name for name in held if "lora_B" in name)
    changed(folder, {name: held[name].to(torch.int8)})
    assert rules(saved(mixtral(), tmp_path / "base"), folder, tmp_path) == [
        ("own-dtype", f"{name}: expected a floating dtype, found I8")
    ]


def test_a_table_takes_no_bias_of_lora(tmp_path):
    model = oracle.seeded(oracle.Embeddings)
    folder = oracle.saved(tmp_path / "a", model, LoraConfig(r=4, target_modules=["words"]))
    changed(folder, {"base_model.model.words.lora_B.bias": torch.zeros(12)}, lora_bias=True)
    found = rules(stored(model, tmp_path / "base"), folder, tmp_path)
    assert found[0][0] == "merge-bias"
    assert found[1:] == []


def test_a_magnitude_that_is_no_vector_of_outputs(tmp_path):
    folder = lora_folder(tmp_path / "a", llama(), target_modules=["q_proj"], use_dora=True)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"
    changed(folder, {name: torch.zeros(31)})
    assert rules(saved(llama(), tmp_path / "base"), folder, tmp_path) == [
        ("base-shape", f"{name}: expected [32], found [31]")
    ]


def test_convolutions_of_other_kernels(tmp_path):
    model = oracle.seeded(oracle.Plane)
    folder = oracle.saved(tmp_path / "a", model, LoraConfig(r=4, target_modules=["one"]))
    name = "base_model.model.one.lora_A.weight"
    changed(folder, {name: torch.zeros(4, 3, 3, 3)})
    assert rules(stored(model, tmp_path / "base"), folder, tmp_path) == [
        ("base-shape", f"{name}: expected [4, 3, 3, 5], found [4, 3, 3, 3]")
    ]


def test_a_copy_of_whole_numbers_for_a_floating_tensor(tmp_path):
    folder = lora_folder(tmp_path / "a", llama(), target_modules=["q_proj"], modules_to_save=["model.norm"])
    name = "base_model.model.model.norm.weight"
    changed(folder, {name: torch.ones(32, dtype=torch.int64)})
    assert rules(saved(llama(), tmp_path / "base"), folder, tmp_path) == [
        ("own-dtype", f"{name}: expected a floating dtype, found I64")
    ]


def test_a_buffer_of_whole_numbers_travels_with_its_saved_module(tmp_path):
    """BatchNorm's count of batches is an int64 in the base and in the copy."""
    model = oracle.seeded(oracle.Plane)
    config = LoraConfig(r=4, target_modules=["one"], modules_to_save=["norm"])
    folder = oracle.saved(tmp_path / "a", model, config)
    changed(folder, {"base_model.model.norm.num_batches_tracked": torch.tensor(7)})
    found = tensors(merged(stored(model, tmp_path / "base"), [folder], tmp_path / "out"))
    assert found["norm.num_batches_tracked"].dtype == torch.int64
    assert int(found["norm.num_batches_tracked"]) == 7


def test_copies_are_kept_in_the_bases_dtype_and_copied_byte_by_byte_where_they_have_it(tmp_path):
    folder = lora_folder(tmp_path / "a", llama(), target_modules=["q_proj"], modules_to_save=["model.norm"])
    copy = load_file(folder / "adapter_model.safetensors")["base_model.model.model.norm.weight"]
    for dtype in (torch.float32, torch.bfloat16):
        base = saved(llama().to(dtype), tmp_path / str(dtype))
        found = tensors(merged(base, [folder], tmp_path / f"out-{dtype}"))["model.norm.weight"]
        assert found.dtype == dtype
        assert torch.equal(found, copy.to(dtype))
    plan = outputs(read_checkpoint(tmp_path / "torch.float32"), [Source(folder)])
    (one,) = [tensor for tensor in plan.tensors if tensor.name == "model.norm.weight"]
    assert one.source.parts[""].file == folder / "adapter_model.safetensors"
    assert one.changes == ()


def test_a_table_that_only_repeats_the_bases_is_read_from_the_base(tmp_path):
    """PEFT writes the table along with its factors; in another dtype it is still the same."""
    model = llama()
    folder = lora_folder(tmp_path / "a", model, target_modules=["embed_tokens"])
    name = "base_model.model.model.embed_tokens.base_layer.weight"
    assert name in load_file(folder / "adapter_model.safetensors")
    base = saved(model.to(torch.bfloat16), tmp_path / "base")
    held = tensors(base)["model.embed_tokens.weight"]
    changed(folder, {name: held.float()})
    plan = outputs(read_checkpoint(base), [Source(folder)])
    (one,) = [tensor for tensor in plan.tensors if tensor.name == "model.embed_tokens.weight"]
    assert one.source.parts[""].file == base / "model.safetensors"
    changed(folder, {name: held.float() + 1})
    plan = outputs(read_checkpoint(base), [Source(folder)])
    (one,) = [tensor for tensor in plan.tensors if tensor.name == "model.embed_tokens.weight"]
    assert one.source.parts[""].file == folder / "adapter_model.safetensors"


def test_biases_that_peft_repeats_for_a_saved_module_are_passed_over(tmp_path):
    model = oracle.seeded(oracle.Linears)
    config = LoraConfig(r=4, target_modules=["last"], modules_to_save=["one"], bias="all")
    folder = oracle.saved(tmp_path / "a", model, config)
    x = torch.randn(3, 12, generator=torch.Generator().manual_seed(1))
    copy = load_file(folder / "adapter_model.safetensors")["base_model.model.one.bias"]
    changed(folder, {"base_model.model.one.original_module.bias": torch.zeros(16)})
    found = oracle.seeded(oracle.Linears)
    found.load_state_dict(tensors(merged(stored(model, tmp_path / "base"), [folder], tmp_path / "out")))
    assert torch.equal(found.one.bias, copy)
    close(out(found, x), oracle.run(model, [folder], x))


def test_a_bias_of_ones_own_after_anothers_bias_of_lora_adds_its_way(tmp_path):
    model = oracle.seeded(oracle.Linears)
    folders = [
        oracle.saved(tmp_path / "a", model, LoraConfig(r=4, target_modules=["one"], lora_bias=True), seed=1),
        oracle.saved(tmp_path / "b", model, LoraConfig(r=4, target_modules=["one"], bias="lora_only"), seed=2),
    ]
    base = stored(model, tmp_path / "base")
    held = [load_file(folder / "adapter_model.safetensors") for folder in folders]
    added, own = held[0]["base_model.model.one.lora_B.bias"], held[1]["base_model.model.one.base_layer.bias"]
    scale = 8 / 4  # lora_alpha / r, of PEFT's defaults
    found = tensors(merged(base, folders, tmp_path / "out"))["one.bias"].double()
    close(found, own.double() + scale * added.double())


def test_tokens_trained_alone_keep_the_tie(tmp_path):
    model = llama(tie_word_embeddings=True)
    wrapped = get_peft_model(llama(tie_word_embeddings=True), TrainableTokensConfig(token_indices=[3, 9], target_modules=["embed_tokens"]))  # fmt: skip
    with torch.no_grad():
        for name, one in wrapped.named_parameters():
            if "trainable_tokens_delta" in name and one.requires_grad:
                one.normal_(generator=torch.Generator().manual_seed(1))
    wrapped.save_pretrained(tmp_path / "a")
    done = merged(saved(model, tmp_path / "base"), [tmp_path / "a"], tmp_path / "out")
    assert "lm_head.weight" not in tensors(done)
    close(out(type(model).from_pretrained(done)), out(PeftModel.from_pretrained(model, tmp_path / "a").eval()))


def test_an_output_that_is_stored_with_other_numbers_shares_nothing(tmp_path):
    """The config says that they are tied; transformers believes the numbers."""
    model = llama(tie_word_embeddings=True)
    base = saved(model, tmp_path / "base")
    held = tensors(base)
    head = torch.randn(64, 32, generator=torch.Generator().manual_seed(1))
    save_file(held | {"lm_head.weight": head}, base / "model.safetensors", {"format": "pt"})
    folder = lora_folder(tmp_path / "a", llama(), trainable_token_indices={"embed_tokens": [3]})
    found = tensors(merged(base, [folder], tmp_path / "out"))
    assert torch.equal(found["lm_head.weight"], head)
    assert not torch.equal(found["model.embed_tokens.weight"], held["model.embed_tokens.weight"])


@pytest.mark.parametrize(
    ("config", "twins"),
    [
        ({}, {"lm_head.weight": "model.embed_tokens.weight"}),
        ({"tie_word_embeddings": False}, {}),
        ({"architectures": ["OwnModel"]}, {}),
    ],
)
def test_ties_of_a_model_that_transformers_does_not_know(tmp_path, config, twins):
    base = saved(llama(tie_word_embeddings=True), tmp_path / "base")
    held = json.loads((base / "config.json").read_text())
    own = {"architectures": ["OwnForCausalLM"], "model_type": "own"}
    (base / "config.json").write_text(json.dumps(held | own | config))
    assert dict(Seats(framed(read_checkpoint(base), None)).twins) == twins


def test_a_seat_is_found_by_every_spelling_of_its_path(tmp_path):
    seats = Seats(framed(read_checkpoint(saved(llama(), tmp_path / "base")), None))
    for path in ("model.norm.weight", "norm.weight", "base_model.model.model.norm.weight"):
        seat = seats.of(path)
        assert seat is not None
        assert [piece.name for piece in seat.pieces] == ["model.norm.weight"]
    for path in ("model.norm.bias", "orm.weight", "model.norm", "layers.0.norm.weight"):
        assert seats.of(path) is None


def test_numbers_are_compared_by_blocks_and_in_the_coarser_dtype(tmp_path):
    one = torch.randn(3000, 700, generator=torch.Generator().manual_seed(1))
    last = one.clone()
    last[-1, -1] += 1
    half = one.to(torch.bfloat16)
    save_file(
        {"one": one, "same": one.clone(), "last": last, "half": half, "turned": one.T.contiguous()}, tmp_path / "f"
    )
    base = read_checkpoint_of(tmp_path / "f")
    assert same_numbers(base["one"], base["same"])
    assert same_numbers(base["one"], base["half"])
    assert not same_numbers(base["half"], base["one"])
    assert not same_numbers(base["one"], base["last"])
    assert not same_numbers(base["one"], base["turned"])


def read_checkpoint_of(file) -> dict[str, Place]:
    file.rename(file.parent / "model.safetensors")
    return {name: one.parts[""] for name, one in read_checkpoint(file.parent).tensors.items()}


def test_every_bf16_tensor_is_the_exact_sum_rounded_once(tmp_path):
    """Two adapters with other ranks, scales and weights on a base of several shards, in float64 from the files."""
    model = llama().to(torch.bfloat16)
    base = saved(model, tmp_path / "base", max_shard_size="20KB")
    configs = [
        {"target_modules": ["q_proj", "down_proj"], "rank_pattern": {"q_proj": 7}, "alpha_pattern": {"q_proj": 3}},
        {"target_modules": ["q_proj", "up_proj", "embed_tokens"], "r": 2, "use_rslora": True},
    ]
    folders = [lora_folder(tmp_path / str(at), llama(), seed=at + 1, **one) for at, one in enumerate(configs)]
    scales = [{"q_proj": 3 / 7, "down_proj": 6 / 4}, dict.fromkeys(["q_proj", "up_proj", "embed_tokens"], 6 / 2**0.5)]
    weights = [0.7, -0.4]
    found = tensors(merged(base, folders, tmp_path / "out", weights))
    moved = 0
    for name, W in tensors(base).items():
        exact = W.double()
        for folder, scale, weight in zip(folders, scales, weights, strict=True):
            held = load_file(folder / "adapter_model.safetensors")
            module = name.removesuffix(".weight")
            leaf = module.rpartition(".")[2]
            if f"base_model.model.{module}.lora_A.weight" in held:
                B, A = (held[f"base_model.model.{module}.lora_{side}.weight"].double() for side in "BA")
                exact, moved = exact + weight * scale[leaf] * B @ A, moved + 1
            elif f"base_model.model.{module}.lora_embedding_A" in held:
                B, A = (held[f"base_model.model.{module}.lora_embedding_{side}"].double() for side in "BA")
                exact, moved = exact + weight * scale[leaf] * (B @ A).T, moved + 1
        # Half a unit in the last place of bfloat16, and what float32 sums of a few products may lose.
        assert ((found[name].double() - exact).abs() <= 2.0**-8 * exact.abs() + 1e-5).all()
        assert found[name].dtype == torch.bfloat16
    assert moved == 9


def test_facts_of_the_adapter_are_not_changed_by_matching(tmp_path):
    folder = lora_folder(tmp_path / "a", llama())
    before = read_adapter(folder)
    outputs(read_checkpoint(saved(llama(), tmp_path / "base")), [Source(folder)])
    assert read_adapter(folder) == before
