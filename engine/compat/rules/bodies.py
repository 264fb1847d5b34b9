"""Rule over the place of a model's body: an adapter of the class with a head names modules below it, one of the body
alone does not, and a loader that looks by exact name passes over the other's in silence.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from engine.compat.rule import Hit
from engine.format.names.canonical import canonical
from engine.format.names.keys import wrapped_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.compat.rule import Subject

# `base_model_prefix` of text models of transformers 5.23.0, by model type; a test compares with the installed classes.
_BELOW = {
    "model": """
        llama mistral mixtral qwen2 qwen3 qwen2_moe qwen3_moe gemma gemma2 phi phi3 opt olmo olmo2 granite stablelm
        starcoder2 cohere cohere2 glm glm4 smollm3 minicpm3 deepseek_v3 gpt_oss persimmon
    """,
    "transformer": "gpt2 gpt_neo gptj bloom falcon mpt codegen gpt_bigcode",
    "gpt_neox": "gpt_neox",
}
BODIES = {kind: prefix for prefix, kinds in _BELOW.items() for kind in kinds.split()}
_CLASSES = ("ForCausalLM", "LMHeadModel")  # of a base whose class has the body below a name
_WITH_HEAD = frozenset({"CAUSAL_LM", "SEQ_CLS", "TOKEN_CLS"})  # tasks whose classes have it there too
_MOST_NAMES = 16_384  # thousands of adapters have the same few hundred modules
_OTHER_CLASSES = frozenset({"QUESTION_ANS"})  # some say `transformer` there, whatever the family


def misplaced(subject: Subject) -> Iterator[Hit]:
    """Modules of numbered layers below another name than the base's class has them, or of the body alone where the
    task asks for a head.
    """
    base, task = subject.base, subject.facts.config.task_type
    body = BODIES.get(base.model_type or "") if base is not None else None
    if base is None or body is None or task in _OTHER_CLASSES or not (base.architecture or "").endswith(_CLASSES):
        return
    right = {f"{body}."} if task in _WITH_HEAD else {f"{body}.", ""}
    wrong = [
        module.name
        for module in subject.facts.modules
        if (found := _above(module.name)) is not None and found not in right
    ]
    if wrong:
        yield Hit(
            f"{len(wrong)} of {len(subject.facts.modules)} modules are not below {body}., where the base's class has "
            f"its layers ({base.architecture!s:.80}): {wrong[0]}; loaders that look by the whole name pass over them",
            wrong[0],
        )


@lru_cache(_MOST_NAMES)
def _above(module: str) -> str | None:
    """What stands before a module's path in the body; None for one beside the body, or below a wrapper's name."""
    name = wrapped_path(module)
    plain = canonical(name)
    above = name.removesuffix(plain)
    wrapped = any(part.startswith("_") for part in above.split("."))
    return None if "." not in plain or above == name or wrapped else above
