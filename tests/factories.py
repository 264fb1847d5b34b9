"""Values that tests make: settings, drafts, published versions."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.catalog.database import Database
from registry.catalog.schema import prepare
from registry.records.draft import VersionDraft
from registry.results import FileEntry
from registry.settings import Settings
from registry.values.refs import parse_name
from registry.versions.publish import Published, record

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def make_settings(home: Path | str, *, actor: str | None = None, **fields: Any) -> Settings:
    """Settings for a registry at `home`."""
    return Settings(home=Path(home), acting=actor, **fields)


def open_database(settings: Settings) -> Database:
    """The database of some settings, with its schema."""
    database = Database(settings.resolved_database_url)
    prepare(database)
    return database


def digest(seed: object) -> str:
    """A digest that depends on the seed alone."""
    return "sha256:" + hashlib.sha256(str(seed).encode()).hexdigest()


def make_draft(name: str = "team/sql", seed: object = 1, **fields: Any) -> VersionDraft:
    """A draft of two files (200 and 1000 bytes); equal seeds are equal content."""
    files = (
        FileEntry("adapter_config.json", digest(f"config {seed}"), 200),
        FileEntry("adapter_model.safetensors", digest(f"weights {seed}"), 1000),
    )
    defaults: dict[str, Any] = {
        "name": parse_name(name),
        "manifest": digest(f"manifest {seed}"),
        "manifest_size": 300,
        "files": files,
        "tensors_digest": digest(f"tensors {seed}"),
        "peft_type": "LORA",
        "rank": 8,
        "modules": 2,
        "parameters": 4096,
        "dtype": "float32",
        "norm": 1.5,
        "base_name": "gpt2",
        "documents": {"config": '{"r":8}', "modules": "[]"},
        "actor": "ada",
    }
    return VersionDraft(**{**defaults, **fields})


def keep_record(content: bytes) -> FileEntry:
    """A `write_record` that keeps nothing."""
    return FileEntry("/record", "sha256:" + hashlib.sha256(content).hexdigest(), len(content))


def publish(database: Database, name: str = "team/sql", seed: object = 1, **fields: Any) -> Published:
    """A version published in a transaction of its own."""
    draft = make_draft(name, seed, **fields)
    return database.write(lambda session: record(session, draft, write_record=keep_record))


def publish_in(session: Session, name: str = "team/sql", seed: object = 1, **fields: Any) -> Published:
    """A version published in a transaction that is already open."""
    return record(session, make_draft(name, seed, **fields), write_record=keep_record)
