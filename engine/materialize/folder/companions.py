"""The files beside the weights that belong to a model: what makes its input, its code, its licence."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from engine.compat.finding import Finding
from engine.errors import BaseError, ChangedError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from engine.materialize.request import Source

TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer*.model",
    "tokenizer.model.v*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*.json",
    "vocab*.txt",
    "vocab.bpe",
    "encoder.json",
    "merges.txt",
    "bpe.codes",
    "normalizer.json",
    "spiece.model",
    "sentencepiece*.model",
    "source.spm",
    "target.spm",
    "*.tiktoken",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
)
"""What turns text into numbers; taken whole from one place, for its parts number the tokens alike."""
OTHERS = (
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "image_processor_config.json",
    "video_preprocessor_config.json",
    "feature_extractor_config.json",
    "audio_tokenizer_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "[0-9]_*/config.json",
    "[0-9]_*/model.safetensors",
    "*.py",
    "license*",
    "licence*",
    "copying*",
    "notice*",
    "use_policy*",
)
"""What else loaders read beside weights (transformers, diffusers, sentence-transformers), and terms of use."""
LARGEST = 256 * 2**20
"""Bytes of one such file; the largest tokenizers of the Hub have a seventh of it."""
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".so")
_BELOW = [pattern.partition("/")[0] for pattern in (*TOKENIZER, *OTHERS) if "/" in pattern]
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_STEP = 1 << 20


@dataclass(frozen=True, slots=True)
class Companion:
    """A file of the result: `name` there, where its bytes are, and what they are."""

    name: str
    file: Path
    size: int
    sha256: str


def companions(folder: Path | None, sources: Sequence[Source], *, resized: bool) -> tuple[Companion, ...]:
    """Those of the base's `folder` (None where it is a file alone), by name.

    The tokenizer is an adapter's where that brings tokens of its own or the vocabulary is `resized`, or where the base
    has none. Raises BaseError for what is no regular file, a link out of the folder, or too large; RefusedError where
    two adapters bring different tokenizers.
    """
    others = [] if folder is None else _found(folder, OTHERS)
    tokenizer = [] if folder is None else _found(folder, TOKENIZER)
    brought = {
        tuple((one.name, one.sha256) for one in own): (source, own)
        for source in sources
        if _brings(own := _found(source.path, TOKENIZER), tokenizer, resized=resized)
    }
    if len(brought) > 1:
        raise RefusedError([_two_tokenizers([source for source, _ in brought.values()])])
    for _, own in brought.values():
        tokenizer = own
    return tuple(sorted((*others, *tokenizer), key=lambda one: one.name))


def copy_companion(one: Companion, folder: Path) -> None:
    """Raises ChangedError where its bytes are no longer those that were planned."""
    content = one.file.read_bytes()
    if hashlib.sha256(content).hexdigest() != one.sha256:
        raise ChangedError(one.file)
    target = folder / one.name
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(content)


def is_companion(name: str) -> bool:
    """Whether a loader would read a file of that name, a path relative to the folder."""
    return any(_matches(name, pattern) for pattern in (*TOKENIZER, *OTHERS))


def _found(folder: Path, patterns: Iterable[str]) -> list[Companion]:
    names = [name for name in _names(folder) if any(_matches(name, pattern) for pattern in patterns)]
    return [_companion(folder, name) for name in sorted(names)]


def _names(folder: Path) -> list[str]:
    """Files of the folder and of the folders in it, as the tables above write them."""
    names = []
    for entry in os.scandir(folder):
        if entry.is_dir() and any(fnmatchcase(entry.name, pattern) for pattern in _BELOW):
            names += [f"{entry.name}/{below.name}" for below in os.scandir(entry) if not below.is_dir()]
        elif not entry.is_dir():
            names.append(entry.name)
    return names


def _matches(name: str, pattern: str) -> bool:
    if name.count("/") != pattern.count("/") or name.casefold().endswith(_PICKLES):
        return False
    return fnmatchcase(name.casefold(), pattern)


def _companion(folder: Path, name: str) -> Companion:
    file = folder / name
    real = file.resolve()
    if not any(real.is_relative_to(root) for root in _roots(folder.resolve())):
        raise BaseError(file, "a link out of the folder; put the file itself there")
    digest, size = hashlib.sha256(), 0
    try:
        with os.fdopen(os.open(real, _READ), "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise BaseError(file, "not a regular file")
            while block := stream.read(_STEP):
                size += len(block)
                if size > LARGEST:
                    raise BaseError(file, f"larger than {LARGEST} bytes")
                digest.update(block)
    except OSError as error:
        raise BaseError(file, f"cannot be read: {error.strerror}") from error
    return Companion(name, real, size, digest.hexdigest())


def _roots(folder: Path) -> list[Path]:
    """Where a link may lead: the folder, and the blobs of the hub cache that it is a snapshot in."""
    snapshots = [place for place in folder.parents if place.name == "snapshots"]
    return [folder, *(place.parent / "blobs" for place in snapshots[:1])]


def _brings(own: Sequence[Companion], base: Sequence[Companion], *, resized: bool) -> bool:
    return bool(own) and (resized or not base or not _added(own) <= _added(base))


def _added(files: Iterable[Companion]) -> set[str]:
    """The tokens that were added to the vocabulary, as any of the files states them."""
    found: set[str] = set()
    for one in files:
        if one.name in _STATED:
            try:
                found.update(_STATED[one.name](json.loads(one.file.read_bytes())))
            except (ValueError, RecursionError, AttributeError, TypeError, KeyError) as error:
                raise BaseError(one.file, "does not state its added tokens as transformers writes them") from error
    return found


def _two_tokenizers(sources: Sequence[Source]) -> Finding:
    names = " and ".join(source.name or source.path.name for source in sources)
    message = f"{names}: bring different tokenizers of their own; a model has one"
    return Finding("materialize-tokenizers", "error", message)


def _contents(rows: Iterable[Any]) -> set[str]:
    return {row["content"] for row in rows}


_STATED: dict[str, Callable[[Any], set[str]]] = {
    "tokenizer.json": lambda value: _contents(value.get("added_tokens") or ()),
    "tokenizer_config.json": lambda value: _contents((value.get("added_tokens_decoder") or {}).values()),
    "added_tokens.json": set,
}
