"""Rules over config keys that make a loader run code or open something: looked at as data, never followed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from engine.compat.rule import Hit, listed, nested_items, strings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.compat.rule import Subject

# peft 0.21.2 and transformers import these and no other library by a config's word; megatron comes from megatron_core.
_TRUSTED_LIBRARIES = frozenset({"transformers", "diffusers", "lerobot"})
_HUB_NAME = re.compile(r"[\w.-]+(?:/[\w.-]+)?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_VARIABLE = re.compile(r"\$\w|\$\{|%\w+%")
_CACHE_KEYS = frozenset({"cache_file", "covariance_file"})
_CACHE_SECTIONS = ("corda_config", "lora_ga_config")
_CODE_ENDINGS = (".py", ".so", ".dll", ".dylib", ".pyd", ".pkl", ".pickle", ".sh")


def megatron_config(subject: Subject) -> Iterator[Hit]:
    if subject.raw.get("megatron_config") is not None:
        yield Hit(
            "megatron_config: expected null, found a value; PEFT would import the library megatron_core names",
            "megatron_config",
        )


def megatron_core(subject: Subject) -> Iterator[Hit]:
    library = subject.raw.get("megatron_core")
    if library is not None and library != "megatron.core":
        yield Hit(
            f"megatron_core: expected 'megatron.core', found {library!r}; older PEFT imports what stands here",
            "megatron_core",
        )


def auto_map(subject: Subject) -> Iterator[Hit]:
    yield from _present(subject, "auto_map", "names code to import from the repository")


def trust_remote_code(subject: Subject) -> Iterator[Hit]:
    yield from _present(subject, "trust_remote_code", "lets a loader run a repository's code")


def attention_kernel(subject: Subject) -> Iterator[Hit]:
    yield from _present(
        subject, "_attn_implementation_internal", "makes some transformers releases load a kernel's code"
    )


def custom_pipelines(subject: Subject) -> Iterator[Hit]:
    yield from _present(subject, "custom_pipelines", "names pipeline code to import")


def _present(subject: Subject, wanted: str, effect: str) -> Iterator[Hit]:
    for place, key, value in nested_items(subject.raw):
        # false, null and an empty table ask for nothing
        if key == wanted and value:
            yield Hit(f"{place}: {effect}; expected no such key, found {_short(value)}", where=place)


def parent_library(subject: Subject) -> Iterator[Hit]:
    mapping = subject.raw.get("auto_mapping")
    library = mapping.get("parent_library") if isinstance(mapping, dict) else None
    if library and (not isinstance(library, str) or library.partition(".")[0] not in _TRUSTED_LIBRARIES):
        allowed = ", ".join(sorted(_TRUSTED_LIBRARIES))
        yield Hit(
            f"auto_mapping.parent_library: expected a module of {allowed}, found {_short(library)}",
            where="auto_mapping.parent_library",
        )


def local_base(subject: Subject) -> Iterator[Hit]:
    yield from _local_name(subject, "base_model_name_or_path")


def local_tokenizer(subject: Subject) -> Iterator[Hit]:
    yield from _local_name(subject, "tokenizer_name_or_path")


def _local_name(subject: Subject, key: str) -> Iterator[Hit]:
    name = subject.raw.get(key)
    if isinstance(name, str) and name and (kind := path_kind(name)) is not None:
        yield Hit(f"{key}: expected a model's name, found {kind}: {_short(name)}", where=key)


def path_kind(name: str) -> str | None:
    """Say what makes a base model's name a place on one machine or network, None for a hub name."""
    parts = re.split(r"[\\/]", name)
    if name.startswith(("\\\\", "//")):
        return "a network path"
    if "://" in name or name.startswith("file:"):
        return "a URL"
    if name.startswith("~"):
        return "a path in a home folder"
    if name.startswith("/") or _DRIVE.match(name):
        return "an absolute path"
    if ".." in parts or "." in parts:
        return "a relative path"
    if _VARIABLE.search(name):
        return "an environment variable"
    return None if _HUB_NAME.fullmatch(name) else "a path or text that is no hub name"


def moving_revision(subject: Subject) -> Iterator[Hit]:
    revision = subject.raw.get("revision")
    if revision and not (isinstance(revision, str) and _COMMIT.fullmatch(revision)):
        yield Hit(f"revision: expected a 40-digit commit, found {_short(revision)}, which can move", where="revision")


def no_revision(subject: Subject) -> Iterator[Hit]:
    if not subject.raw.get("revision"):
        yield Hit("revision: none given, the base's newest commit is meant", where="revision")


def cache_path(subject: Subject) -> Iterator[Hit]:
    for section in _CACHE_SECTIONS:
        held = subject.raw.get(section)
        for place, key, value in nested_items(held, section) if isinstance(held, dict) else ():
            if key in _CACHE_KEYS and value:
                yield Hit(f"{place}: PEFT unpickles the file named here, found {_short(value)}", where=place)


def prompt_text(subject: Subject) -> Iterator[Hit]:
    if subject.raw.get("prompt_tuning_init") == "TEXT" and subject.raw.get("tokenizer_kwargs"):
        yield Hit(
            "tokenizer_kwargs: arguments reach the tokenizer's loader, found some beside prompt_tuning_init TEXT",
            "tokenizer_kwargs",
        )


def template_files(subject: Subject) -> Iterator[Hit]:
    found = sorted(name for name in subject.files if _leaf(name).startswith(("chat_template", "tokenizer")))
    if found:
        yield Hit(
            f"chat template or tokenizer files travel along and replace the base's: {listed(found)}", where=found[0]
        )


def code_files(subject: Subject) -> Iterator[Hit]:
    found = sorted(name for name in subject.files if name.lower().endswith(_CODE_ENDINGS))
    if found:
        yield Hit(f"files that hold code: {listed(found)}", where=found[0])


def full_embedding(subject: Subject) -> Iterator[Hit]:
    saved = {name.rpartition(".")[2] for name in strings(subject.raw.get("modules_to_save"))}
    if found := sorted(
        saved & {"embed_tokens", "lm_head", "wte", "word_embeddings", "embed_in", "embed_out", "shared"}
    ):
        yield Hit(
            f"modules_to_save replaces whole embedding or output tables of the base: {', '.join(found)}",
            "modules_to_save",
        )


def _leaf(name: str) -> str:
    return name.rpartition("/")[2]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
