"""The adapters among an account's model repos, and what each is called here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING, Any

from engine.format.adapter import CONFIG_NAME
from registry.errors import NotFoundError, UnavailableError, UsageError
from registry.hub.faults import asking
from registry.hub.place import HubPlace, parse_place
from registry.values.refs import Name, parse_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from huggingface_hub import HfApi

    from registry.hub.place import HubPattern

_MOST_MODELS = 20_000
_MOST_FOLDERS = 100  # of one repo
_NOT_A_NAME = re.compile(r"[^a-z0-9._-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Found:
    """An adapter on the Hub, at the commit that was listed where the Hub said so, and its name here."""

    place: HubPlace
    name: Name


@dataclass(frozen=True, slots=True)
class Account:
    """What an account has: its adapters sorted by place, and how many of its models are none."""

    adapters: tuple[Found, ...]
    others: int


def adapters_of(api: HfApi, pattern: HubPattern, *, match: str | None, into: str | None) -> Account:
    """The PEFT adapters of an account: every folder with an adapter_config.json, a repo's top before those below it.

    NotFoundError where no model matches at all.
    """
    wanted: dict[str, list[HubPlace]] = {}
    with asking(str(pattern)):
        # one page at a time: what else a server says of each model is not kept
        for number, model in enumerate(api.list_models(author=pattern.owner, full=True)):
            if number >= _MOST_MODELS:
                raise UnavailableError(f"{pattern}: more than {_MOST_MODELS} models")
            if _is_wanted(str(model.id), pattern, match):
                wanted[str(model.id)] = list(_places(model))
    if not wanted:
        raise NotFoundError(f"{pattern}: no model of that name, or none that may be seen")
    found = [Found(place, local_name(place, into)) for _, places in sorted(wanted.items()) for place in places]
    return Account(tuple(found), sum(not places for places in wanted.values()))


def local_name(place: HubPlace, into: str | None = None) -> Name:
    """The name here of a place there: the account or `into`, and the repo's name with the folder's behind it."""
    owner, _, name = place.repo.partition("/")
    words = f"{name}-{place.folder.replace('/', '-')}" if place.folder else name
    return parse_name(f"{into or _word(owner)}/{_word(words)}")


def _word(text: str) -> str:
    """The nearest name that the grammar allows."""
    word = re.sub(r"\.{2,}", ".", _NOT_A_NAME.sub("-", text.lower())).lstrip("._-")[:96].rstrip(".")
    try:
        return parse_name(f"x/{word}").name
    except UsageError:  # empty, or a device's name
        return f"adapter-{word}".rstrip("-")


def _is_wanted(repo: str, pattern: HubPattern, match: str | None) -> bool:
    owner, _, name = repo.partition("/")
    return (
        owner.lower() == pattern.owner.lower()
        and fnmatchcase(name, pattern.glob)
        and (match is None or fnmatchcase(name, match))
    )


def _places(model: Any) -> Iterator[HubPlace]:
    try:
        repo = parse_place(f"hf://{model.id}").repo
    except UsageError:
        return  # a name that the Hub itself would not give
    commit = model.sha if isinstance(model.sha, str) and _COMMIT.fullmatch(model.sha) else None
    for folder in _folders(model):
        try:
            yield HubPlace(repo, parse_place(f"hf://{repo}/{folder}").folder if folder else "", commit)
        except UsageError:
            continue


def _folders(model: Any) -> list[str]:
    """Where its adapters lie. A server that lists no files is believed where it says `peft`."""
    if model.siblings is None:
        return [""] if "peft" in (model.tags or ()) else []
    folders = {
        path.rpartition("/")[0]
        for path in (str(file.rfilename) for file in model.siblings)
        if path.rpartition("/")[2] == CONFIG_NAME
    }
    if "" in folders:
        return [""]
    kept = (one for one in sorted(folders) if not any(part.startswith("checkpoint-") for part in one.split("/")))
    return list(islice(kept, _MOST_FOLDERS))
