"""Reads `ENGINE[@VERSION][:limit=value]…` and finds the table for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.compat.engines import diffusers, llamacpp, own, peft, sglang, vllm
from engine.compat.engines.table import Engine, EngineTarget, limit_names
from engine.compat.engines.version import parse_version
from engine.errors import OptionError

if TYPE_CHECKING:
    from engine.compat.engines.table import Limit

ENGINES: tuple[Engine, ...] = (
    vllm.TABLE,
    sglang.TABLE,
    diffusers.TABLE,
    peft.TABLE,
    llamacpp.TABLE,
    llamacpp.OLLAMA,
    own.TABLE,
)

_LARGEST = 2**31


def find_engine(name: str) -> Engine:
    """The table of that name or alias, in any case; raises OptionError."""
    for engine in ENGINES:
        if name.lower() in (engine.name, *engine.aliases):
            return engine
    raise OptionError(f"engine {name!r:.80}: expected one of {', '.join(engine.name for engine in ENGINES)}")


def parse_target(text: str) -> EngineTarget:
    """The engine, release and limits in `vllm@0.33.0:max_lora_rank=64`; several limits follow with `:` or `,`.

    Without a release the newest in the table, without a limit the engine's own default. Raises OptionError: an unknown
    engine or limit, no release number, a value that the limit cannot have.
    """
    head, *settings = text.split(":")
    name, at, number = head.partition("@")
    engine = find_engine(name)
    written = number if at else engine.newest
    # llama.cpp counts builds: b4567
    bare = written if written is None or engine.newest is not None else written.removeprefix("b")
    version = None if bare is None else parse_version(bare)
    if version is None and written is not None:
        raise OptionError(f"{name}@{number!s:.80}: expected a release such as {engine.newest or '1.2.3'}")
    limits = {limit.name: limit.default for limit in engine.limits}
    for setting in (one for several in settings for one in several.split(",")):
        key, _, value = setting.partition("=")
        limits[key] = _value(_known(engine, key), value)
    return EngineTarget(engine, version, limits)


def _known(engine: Engine, key: str) -> Limit:
    for limit in engine.limits:
        if limit.name == key:
            return limit
    raise OptionError(f"{engine.name} has no limit {key!r:.80}: expected one of {limit_names(engine)}")


def _value(limit: Limit, text: str) -> int | str:
    if limit.kind is str:
        return text
    if not (text.isascii() and text.isdecimal() and len(text) < 11 and 0 < int(text) < _LARGEST):
        raise OptionError(f"{limit.name}={text!s:.80}: expected a positive number")
    return int(text)
