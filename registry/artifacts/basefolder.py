"""The checkpoint that a name of a base means: a folder whose weights are those that the catalog knows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select

from engine.compat.finding import Finding
from engine.errors import EngineError
from engine.format.base import has_weights, read_base
from registry.artifacts.request import as_place
from registry.basemodels import bases
from registry.errors import NotFoundError, UsageError
from registry.files.disk import reaching, reading
from registry.files.transfer import hash_file
from registry.models import Base, BaseName
from registry.values.digests import digest_of
from registry.values.refs import is_path
from registry.values.strictjson import canonical_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy.orm import Session

    from registry.artifacts.sources import Adapter
    from registry.handle import Handle

_CARD = "README.md"
_LARGEST = 256 << 20
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx")


@dataclass(frozen=True, slots=True)
class BaseFolder:
    """A base's checkpoint. `fingerprint` is of its tensors, `files` a digest of the other files and of the names and
    sizes of the weight files, which a result takes over. Where only its modules count, both are digests of the layout;
    then there may be no `path`. `label` is what the result calls it: its oldest name here, never a path.
    """

    name: str
    path: Path | None
    fingerprint: str
    files: str
    label: str = ""


def base_folder(handle: Handle, text: str | None, adapters: Sequence[Adapter]) -> BaseFolder:
    """The base by any of its names or at a path, None for the one that all adapters were pushed for.

    NotFoundError where no folder is known that still holds it; the engine's errors for one that cannot be read.
    """
    place = None if text is None else as_place(text)
    if text is not None and place is not None:
        return _labelled(handle, _read(place.absolute(), str(place.absolute())))
    with handle.database.reading() as session:
        base = bases.get(session, text) if text is not None else _common(session, adapters)
        name, fingerprint = text or _name(session, base), base.fingerprint
        places = [Path(one) for one in base_names(session, base) if is_path(one)]
    for one in places:
        found = _same(one, name, fingerprint)
        if found is not None:
            return _labelled(handle, found)
    looked = f"; looked in {', '.join(map(str, places))}" if places else ""
    raise NotFoundError(
        f"base {name}: no folder with its weights is known here{looked}", hint="--base PATH, or adapters base add PATH"
    )


def folder_of(handle: Handle, fingerprint: str, files: str, place: str) -> BaseFolder | None:
    """A folder that holds the base of this fingerprint with these files: `place`, or one that the catalog knows."""
    with handle.database.reading() as session:
        base = bases.find(session, fingerprint)
        known = [] if base is None else [name for name in base_names(session, base) if is_path(name)]
    for one in dict.fromkeys((place, *known)):
        found = _same(Path(one), one, fingerprint)
        if found is not None and found.files == files:
            return _labelled(handle, found)
    return None


def base_doubts(handle: Handle, base: BaseFolder, adapters: Sequence[Adapter]) -> tuple[Finding, ...]:
    """A warning for each version that was pushed for a base of another content, unless a twin of it."""
    found = []
    with handle.database.reading() as session:
        for adapter in adapters:
            known = None if adapter.base is None else _known(session, adapter)
            if known is not None and known.fingerprint not in (None, base.fingerprint):
                found.append(
                    Finding(
                        "base-differs",
                        "warning",
                        f"was pushed for base {_name(session, known)}, and {base.path} does not hold the same weights",
                        target=adapter.name,
                        where="base",
                    )
                )
    return tuple(found)


def _labelled(handle: Handle, found: BaseFolder) -> BaseFolder:
    """The same label whatever name or path it was asked for by."""
    if not handle.settings.has_catalog:
        return found
    with handle.database.reading() as session:
        base = bases.find(session, found.fingerprint)
        names = [] if base is None else [name for name in base_names(session, base) if not is_path(name)]
    return replace(found, label=names[-1] if names else "")


def _read(place: Path, name: str) -> BaseFolder:
    facts = read_base(place)
    if facts.fingerprint is None:
        raise UsageError(f"{place}: holds no weights")
    return BaseFolder(name, place, facts.fingerprint, _files_digest(place))


def _same(place: Path, name: str, fingerprint: str | None) -> BaseFolder | None:
    """None where the folder is gone, is a config alone, cannot be read, or holds something else by now."""
    try:
        if fingerprint is None or not has_weights(place):
            return None
        found = _read(place, name)
    except (EngineError, UsageError):
        return None
    return found if found.fingerprint == fingerprint else None


def _common(session: Session, adapters: Sequence[Adapter]) -> Base:
    known = {one.id: one for adapter in adapters if (one := _known(session, adapter)) is not None}
    if len(known) != 1:
        what = "none is known for these adapters" if not known else "these adapters were pushed for several"
        raise UsageError(f"which base: {what}", hint="--base PATH, or a name that `adapters base list` shows")
    return next(iter(known.values()))


def _known(session: Session, adapter: Adapter) -> Base | None:
    if adapter.base is None:
        return None
    if adapter.base.base_id is not None:
        return session.get_one(Base, adapter.base.base_id)
    return bases.find(session, adapter.base.name) if adapter.base.name else None


def base_names(session: Session, base: Base) -> list[str]:
    """All that it was ever called, the newest name first; the folders that it was added from are among them."""
    return list(session.scalars(select(BaseName.name).where(BaseName.base_id == base.id).order_by(BaseName.id.desc())))


def _name(session: Session, base: Base) -> str:
    names = [name for name in base_names(session, base) if not is_path(name)] or base_names(session, base)
    return names[-1] if names else base.fingerprint or base.layout


def _files_digest(place: Path) -> str:
    """Of what a result may take over: all files but hidden ones and the card, which is written anew; of weights beside
    the config the names and sizes, since the fingerprint is of them. Links are followed: in the Hub's cache every file
    is one.
    """
    folder = place if place.is_dir() else place.parent
    rows: list[list[object]] = []
    with reaching(folder):
        for file in sorted(_files(folder)):
            name = file.relative_to(folder).as_posix()
            size = file.stat().st_size
            if name.endswith(_WEIGHTS) and ("/" not in name or size > _LARGEST):
                rows.append([name, size])
            else:
                with reading(file.resolve()) as descriptor:
                    rows.append([name, hash_file(descriptor).digest])
    return digest_of(canonical_json(rows))


def _files(folder: Path) -> Iterator[Path]:
    """The files of a folder and of its subfolders, no deeper."""
    for one in folder.iterdir():
        if one.name.startswith(".") or one.name == _CARD:
            continue
        if one.is_dir():
            yield from (file for file in one.iterdir() if file.is_file() and not file.name.startswith("."))
        elif one.is_file():
            yield one
