"""The command line that starts a server with the room that was planned."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.compat.capacity.plan import Capacity

# More than these would make a line nobody reads; they can be loaded while the server runs.
MOST_NAMED = 16


def server_command(
    engine: str, room: Capacity, base: str | None, adapters: Mapping[str, str], *, dtype: str | None = None
) -> str | None:
    """A line for a shell, None for an engine that has no server here. `adapters` are references by served name.

    Where there are more than MOST_NAMED, the line starts without them. `dtype` is what was asked for, None for the
    engine's own choice.
    """
    named = adapters if len(adapters) <= MOST_NAMED else {}
    if engine == "vllm":
        words = ["vllm", "serve", base or "BASE", "--enable-lora", *_vllm_room(room)]
        words += [] if dtype in (None, "float32") else ["--lora-dtype", str(dtype)]
        return _line(words, "--lora-modules", named)
    if engine == "sglang":
        words = ["python", "-m", "sglang.launch_server", "--model-path", base or "BASE", "--enable-lora"]
        words += [*_sglang_room(room), "--lora-target-modules", *room.targets]
        return _line(words, "--lora-paths", named)
    return None


def _vllm_room(room: Capacity) -> list[str]:
    counts = ["--max-loras", str(room.max_loras), "--max-cpu-loras", str(room.max_cpu_loras)]
    return ["--max-lora-rank", str(room.max_lora_rank), *counts]


def _sglang_room(room: Capacity) -> list[str]:
    loaded = max(room.max_cpu_loras, room.max_loras)
    counts = ["--max-loras-per-batch", str(room.max_loras), "--max-loaded-loras", str(loaded)]
    return ["--max-lora-rank", str(room.max_lora_rank), *counts]


def _line(words: list[str], flag: str, named: Mapping[str, str]) -> str:
    pulled = [
        f'{shlex.quote(name)}="$(adapters pull {shlex.quote(ref)} --format quiet)"' for name, ref in named.items()
    ]
    return " ".join([shlex.join(words), *([flag, *pulled] if pulled else [])])
