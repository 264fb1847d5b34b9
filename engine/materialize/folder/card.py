"""The model card of the result: what it was made of."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from engine.materialize.folder.manifest import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.materialize.outputs import Headed

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def model_card(recipe: Mapping[str, Any], *, base: str, library: str, headed: Headed | None = None) -> bytes:
    """README.md, with the Hub's front matter; `base` is the base's name where it is known."""
    front = {
        **({"base_model": base, "base_model_relation": "finetune"} if _HUB_NAME.fullmatch(base) else {}),
        "library_name": library,
        "tags": ["merged-adapter"],
    }
    rows = [
        f"| {_cell(one['name'] or 'unnamed')} | {one['weight']:g} | {one['digest'] or one['tensors_digest']} |"
        for one in recipe["adapters"]
    ]
    lines = [
        "---",
        *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items()),
        "---",
        "# Merged checkpoint",
        "",
        f"The weights of {_cell(base) if base else 'a base model'} with these adapters added: it runs without them.",
        "",
        f"Base: `{recipe['base']['fingerprint']}`",
        "",
        "| adapter | weight | digest |",
        "|---|---|---|",
        *rows,
        "",
        *_head(headed),
        f"Numbers: {_numbers(recipe)}. Made by {_tools(recipe)}.",
        "",
        f"`{MANIFEST}` holds the sha256 of every tensor and file, and what of the adapters arrived in each weight.",
        "The terms of the base and of the adapters apply.",
    ]
    return ("\n".join(lines) + "\n").encode()


def _head(headed: Headed | None) -> list[str]:
    """That the model is of another class than the base."""
    if headed is None:
        return []
    classes = f"Class: {_cell(headed.architecture)}, of the base: {_cell(headed.before or 'not told')}."
    names = (", ".join(map(_cell, some)) or "nothing" for some in (headed.brought, headed.left_out))
    return [f"{classes} From the adapter: {next(names)}. Left out of the base: {next(names)}.", ""]


def _numbers(recipe: Mapping[str, Any]) -> str:
    dtype = recipe["quantize"] or recipe["dtype"] or "the base's own dtypes"
    seed = "" if recipe["seed"] is None else f" with seed {recipe['seed']}"
    return f"{dtype}, summed in float32 and rounded once ({recipe['rounding']}{seed})"


def _tools(recipe: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in recipe["tools"].items())


def _cell(text: str) -> str:
    """Text of others as one piece of code, which cannot end the table or the line."""
    return "`" + "".join(" " if char in "`|" or not char.isprintable() else char for char in text) + "`"
