"""Explains every tensor of a LoRA file by its configuration, or says that nothing there does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.format.names.keys import WRAPPER, parse_key, wrapped_path
from engine.format.names.modules import EXTRA_ROLES, FACTOR_ROLES, parameter_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from engine.format.configs.config import AdapterConfig
    from engine.format.configs.patterns import Matcher
    from engine.format.configs.settings import LoraSettings
    from engine.format.names.keys import TensorKey

_HEADS: Mapping[str, tuple[str, ...]] = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}
"""Modules that PEFT adds to modules_to_save for a task, also where an old file does not say so."""

_EMBEDDINGS = frozenset(
    {
        "embed_tokens",
        "lm_head",
        "wte",
        "word_embeddings",
        "shared",
        "embed_in",
        "embed_out",
        "tok_embeddings",
        "embedding",
        "output_layer",
    }
)
"""Names of input and output embeddings, which PEFT writes in full when they are targeted or resized."""


def explain(names: Iterable[str], config: AdapterConfig, matcher: Matcher) -> tuple[dict[str, str], tuple[str, ...]]:
    """Roles of the tensors that are no factor but belong, and the names that nothing in the configuration explains.

    Roles: `magnitude`, `lora_bias`, `diag`, `velora`, `monteclora`, `tokens`, `modules_to_save`, `bias`, `embedding`.
    A factor of a module that is not targeted is unexplained. Raises PatternError.
    """
    rules = _Rules(config, matcher)
    roles: dict[str, str] = {}
    unmatched: list[str] = []
    for key in map(parse_key, names):
        role = rules.role(key)
        if role is None:
            unmatched.append(key.name)
        elif key.role not in FACTOR_ROLES:
            roles[key.name] = role
    return roles, tuple(sorted(unmatched))


class _Rules:
    """One configuration's rules; remembers which modules it targets."""

    def __init__(self, config: AdapterConfig, matcher: Matcher) -> None:
        self._lora = matcher.lora
        self._matcher = matcher
        self._saved = (*(self._lora.modules_to_save or ()), *_HEADS.get(config.task_type or "", ()))
        self._extras = _switched_on(self._lora)
        self._targeted: dict[str, bool] = {}

    def role(self, key: TensorKey) -> str | None:
        """The tensor's role, None where nothing explains it."""
        if key.role in FACTOR_ROLES:
            return key.role if self._is_target(key) else None
        if key.role in EXTRA_ROLES:
            return key.role if key.role in self._extras and self._is_target(key) else None
        if key.role == "tokens":
            return "tokens" if self._lora.trainable_token_indices is not None else None
        if key.role == "unknown":
            return None
        return self._base_role(key)

    def _base_role(self, key: TensorKey) -> str | None:
        """A base weight or bias: PEFT loads it over the base's own, so it needs a reason to be there."""
        if self._is_saved(key.module):
            return "modules_to_save"
        if key.leaf == "bias" and self._bias_belongs(key):
            return "bias"
        owner = [part for part in key.module.split(".") if part not in (WRAPPER, "token_adapter")]
        if owner and owner[-1] in _EMBEDDINGS and key.leaf in ("weight", "bias"):
            return "embedding"
        if key.role == "base_layer" and key.leaf == "weight" and self._is_embedding_target(key.module):
            return "embedding"
        return None

    def _bias_belongs(self, key: TensorKey) -> bool:
        return self._lora.bias == "all" or (self._lora.bias == "lora_only" and self._is_target(key))

    def _is_saved(self, module: str) -> bool:
        """PEFT wraps every module whose path ends with the entry, no dot needed; its children are saved with it."""
        if not self._saved:
            return False
        parts = module.split(".")
        paths = [".".join(parts[: end + 1]) for end in range(len(parts))]
        return any(path.endswith(saved) for path in paths for saved in self._saved)

    def _is_embedding_target(self, module: str) -> bool:
        """Any embedding, whatever its name, is written in full where `target_modules` lists that bare name."""
        targets = self._lora.target_modules
        return isinstance(targets, tuple) and module.rpartition(".")[2] in targets

    def _is_target(self, key: TensorKey) -> bool:
        module = wrapped_path(key.module)
        if module not in self._targeted:
            parameters = self._lora.target_parameters or ()
            # PEFT drops a tied output layer from the saved targets and still writes its factors.
            tied = self._lora.ensure_weight_tying and module.rpartition(".")[2] in _EMBEDDINGS
            self._targeted[module] = tied or bool(parameter_names(module, parameters)) or self._matcher.targets(module)
        return self._targeted[module]


def _switched_on(lora: LoraSettings) -> frozenset[str]:
    switches = {
        "magnitude": lora.use_dora,
        "lora_bias": lora.lora_bias,
        "diag": lora.kasa_config is not None,
        "velora": lora.velora_config is not None,
        "monteclora": lora.monteclora_config is not None,
    }
    return frozenset(role for role, on in switches.items() if on)
