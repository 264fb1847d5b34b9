"""How serving engines set room aside for adapters: which ranks, which layers, which flags. Read from their releases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from engine.compat.capacity.rooms import base_rooms, embedding_rooms, leaf
from engine.compat.engines.table import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from engine.format.facts import AdapterFacts, BaseFacts

Over = Literal["model", "targets", "adapters"]


@dataclass(frozen=True, slots=True)
class Pool:
    """One engine. `buckets` are the ranks it can be started with, None where any is; `asked` the ranks that an adapter
    asks for, by config key or module; `over` the layers that get a slot: all of the model's, those named as targets,
    or those that the adapters have. `base_slot`: requests without an adapter take a slot too. `packed` are projections
    that lie in one slot together.
    """

    engine: str
    buckets: tuple[int, ...] | None
    over: Over
    asked: Callable[[AdapterFacts], dict[str, int]]
    sources: tuple[Source, ...]
    packed: tuple[frozenset[str], ...] = ()
    base_slot: bool = False

    def bucket(self, rank: int) -> int | None:
        """The smallest rank that the engine can be started with to take this one; None where there is none."""
        if self.buckets is None:
            return max(rank, 1)
        return next((allowed for allowed in self.buckets if allowed >= rank), None)

    def rooms(self, base: BaseFacts, targets: Iterable[str]) -> dict[str, int]:
        """Width of every layer of the base that gets a slot when these names are the targets; empty if unknown."""
        if self.over == "adapters":
            return {}
        linear = base_rooms(base)
        if not linear:
            return {}
        if self.over == "model":
            return linear | self._embeddings(base)
        named = self.spread(targets)
        chosen = {path: width for path, width in linear.items() if leaf(path) in named}
        tables = {name: width for name, width in embedding_rooms(base).items() if name in named}
        # 0.5.23 makes the buffers of both tables once for each of the two that is a target.
        return chosen | {name: width * len(tables) for name, width in tables.items()}

    def spread(self, names: Iterable[str]) -> frozenset[str]:
        """The names with those that share a slot with one of them."""
        wanted = frozenset(names)
        return wanted.union(*(group for group in self.packed if group & wanted))

    def _embeddings(self, base: BaseFacts) -> dict[str, int]:
        tables = embedding_rooms(base)
        if base.architecture in _ADAPTS_BOTH.split():
            return tables
        return {name: width for name, width in tables.items() if base.architecture in _ADAPTS_INPUT and name == _INPUT}


def configured(facts: AdapterFacts) -> dict[str, int]:
    """Every rank that the configuration names, and those of modules that exceed it."""
    lora = facts.config.lora
    keys = {} if lora is None else {"r": lora.r, **{f"rank_pattern.{key}": n for key, n in lora.rank_pattern.items()}}
    return _with_larger(keys, facts)


def first_and_actual(facts: AdapterFacts) -> dict[str, int]:
    """The configuration's r, and ranks of modules that exceed it."""
    lora = facts.config.lora
    return _with_larger({} if lora is None else {"r": lora.r}, facts)


def actual(facts: AdapterFacts) -> dict[str, int]:
    """The ranks of the factors themselves: the largest of each pattern of layers, by module."""
    return _with_larger({}, facts)


def find_pool(engine: str) -> Pool | None:
    """How that engine sets room aside, None where nothing is known of it."""
    return next((pool for pool in POOLS if pool.engine == engine), None)


def _with_larger(keys: Mapping[str, int], facts: AdapterFacts) -> dict[str, int]:
    """The keys, and one module of each rank that none of them has and that is above all of them or stands alone."""
    found = dict(keys)
    least = max(keys.values(), default=0)
    for module in facts.modules:
        if module.rank > least and module.rank not in found.values():
            found[module.name] = module.rank
    return found


_INPUT = "embed_tokens"
# Classes of vLLM 0.33.0 that name both tables in `embedding_modules`: those get room whether adapters have them or not.
_ADAPTS_BOTH = """
    ApertusForCausalLM DeciLMForCausalLM Ernie4_5ForCausalLM Exaone4ForCausalLM ExaoneForCausalLM ExaoneMoeForCausalLM
    FalconH1ForCausalLM GraniteForCausalLM GraniteMoeForCausalLM GraniteMoeHybridForCausalLM GraniteMoeSharedForCausalLM
    HyperCLOVAXForCausalLM JambaForCausalLM Lfm2ForCausalLM Lfm2MoeForCausalLM Llama4ForCausalLM LlamaForCausalLM
    MiniCPM3ForCausalLM MiniCPMForCausalLM MixtralForCausalLM NemotronForCausalLM NemotronHForCausalLM
    Param2MoEForCausalLM Phi3ForCausalLM PhiMoEForCausalLM Qwen3ForCausalLM Qwen3MoeForCausalLM Qwen3_5ForCausalLM
    Qwen3_5MoeForCausalLM SolarForCausalLM TeleChat2ForCausalLM TeleFLMForCausalLM
"""
_ADAPTS_INPUT = frozenset({"CohereForCausalLM", "CohereCompassForCausalLM"})

POOLS = (
    Pool(
        "vllm",
        (1, 8, 16, 32, 64, 128, 256, 320, 512),
        "model",
        configured,
        (
            Source("vllm/config/lora.py", "MaxLoRARanks", "0.33.0", "run"),
            Source("vllm/lora/peft_helper.py", "PEFTHelper.validate_legal", "0.33.0", "run"),
            Source("vllm/lora/layers/column_parallel_linear.py", "create_lora_weights", "0.33.0", "run"),
            Source("vllm/lora/model_manager.py", "LoRAModelManager._create_lora_modules", "0.33.0"),
        ),
        packed=(frozenset({"q_proj", "k_proj", "v_proj"}), frozenset({"gate_proj", "up_proj"})),
    ),
    Pool(
        "sglang",
        None,
        "targets",
        first_and_actual,
        (
            Source("sglang/srt/lora/mem_pool.py", "LoRAMemoryPool.init_buffers", "0.5.23", "run"),
            Source("sglang/srt/lora/mem_pool.py", "LoRAMemoryPool.can_support", "0.5.23", "run"),
            Source("sglang/srt/lora/utils.py", "get_normalized_target_modules", "0.5.23", "run"),
        ),
        packed=(
            frozenset({"q_proj", "k_proj", "v_proj", "qkv_proj"}),
            frozenset({"gate_proj", "up_proj", "gate_up_proj"}),
            frozenset({"q_a_proj", "kv_a_proj_with_mqa"}),
        ),
        base_slot=True,
    ),
    Pool(
        "own",
        None,
        "adapters",
        actual,
        (Source("engine/model", "slots of one target rank", "0.1.0"),),
    ),
)
