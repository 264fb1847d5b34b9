"""The data set of catalog.py: adapters x 20 versions x 10 tags with documents, the same rows on both databases."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy import Connection


def _modules(seed: int) -> str:
    """A module document of 14 modules, about 2.8 KB."""
    shared = {"kind": "linear", "rank": 16, "alpha": 32, "scaling": 2.0, "a_shape": [16, 4096], "b_shape": [4096, 16]}
    names = [f"model.layers.{layer}.self_attn.{target}" for layer in range(7) for target in ("q_proj", "v_proj")]
    rows = enumerate(names)
    return json.dumps([{"name": name, **shared, "dtype": "bf16", "norm": (seed * 31 + i) / 97} for i, name in rows])


VERSIONS = 20
CHAIN = 1000  # versions of bench/chain, each fine-tuned from the one before
BASES = 8
RANKS = (4, 8, 16, 32, 64)
CONFIG = json.dumps({"peft_type": "LORA", "r": 16, "lora_alpha": 32, "target_modules": ["q_proj", "v_proj"]})
MODULES = tuple(_modules(n) for n in range(97))


@dataclass(frozen=True)
class Table:
    """One bulk load."""

    name: str
    columns: tuple[str, ...]
    rows: Iterable[tuple[Any, ...]]


def tables(adapters: int) -> Iterator[Table]:
    """Every table, parents first."""
    ids = list(range(1, adapters + 1))
    versions = adapters * VERSIONS
    everything = range(1, versions + CHAIN + 1)
    yield Table("bases", _BASE_COLUMNS, map(_base, range(1, BASES + 1)))
    yield Table("base_names", ("id", "name", "base_id"), ((n, f"org/base-{n}", n) for n in range(1, BASES + 1)))
    named = [(n, f"team-{n % 50:02d}", f"adapter-{n:05d}", VERSIONS) for n in ids]
    yield Table(
        "adapters", ("id", "namespace", "name", "last_number"), [*named, (adapters + 1, "bench", "chain", CHAIN)]
    )
    yield Table("versions", _VERSION_COLUMNS, (_version(n, adapters) for n in everything))
    yield Table("blobs", ("digest", "size"), ((digest("weights", n), 1_000_000) for n in everything))
    yield Table("files", _FILE_COLUMNS, (row for n in everything for row in _files(n)))
    yield Table("documents", ("version_id", "kind", "body"), (row for n in everything for row in _documents(n)))
    yield Table("tags", ("version_id", "key", "value"), (row for n in everything for row in _tags(n)))
    yield Table("metrics", ("version_id", "name", "value"), (row for n in everything for row in _metrics(n)))
    yield Table("aliases", ("adapter_id", "name", "version_id", "moved_at"), (row for n in ids for row in _aliases(n)))
    yield Table("lineage", ("id", "child_id", "parent_id", "parent_digest", "relation"), _lineage(versions))


def load(connection: Connection, table: Table) -> None:
    """COPY on PostgreSQL, executemany on SQLite."""
    columns = ", ".join(table.columns)
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "postgresql":
        with driver.cursor() as cursor, cursor.copy(f"COPY {table.name} ({columns}) FROM STDIN") as copy:
            for row in table.rows:
                copy.write_row(row)
        if "id" in table.columns:
            connection.exec_driver_sql(
                f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), (SELECT max(id) FROM {table.name}))"
            )
    else:
        places = ", ".join("?" * len(table.columns))
        driver.executemany(f"INSERT INTO {table.name} ({columns}) VALUES ({places})", table.rows)


def digest(kind: str, number: int) -> str:
    """A digest that is the same on every run."""
    return "sha256:" + hashlib.sha256(f"{kind} {number}".encode()).hexdigest()


_BASE_COLUMNS = ("id", "fingerprint", "layout", "tensors", "parameter_count", "parameters", "config")
_FILE_COLUMNS = ("version_id", "path", "role", "blob_digest", "sha256", "size")
_FACTS = ("peft_type", "rank", "modules", "size", "base_id", "base_name")
_VERSION_COLUMNS = ("id", "adapter_id", "number", "digest", "tensors_digest", "newest", *_FACTS)
_MANY = (("task", 20), ("lang", 50), ("owner", 499), ("data", 101), ("quality", 4), ("run", 1999), ("team", 30))


def _base(n: int) -> tuple[Any, ...]:
    return (n, digest("base", n), digest("layout", n), 200, 8_000_000_000, "{}", "{}")


def _version(n: int, adapters: int) -> tuple[Any, ...]:
    adapter, number = _place(n, adapters)
    newest = number == (VERSIONS if adapter <= adapters else CHAIN)
    rank = RANKS[(adapter // 8 + number) % len(RANKS)]
    base = adapter % BASES + 1
    facts = ("LORA", rank, 14, 1_000_000 + n % 1000, base, f"org/base-{base}")
    return (n, adapter, number, digest("version", n), digest("tensors", n), newest, *facts)


def _place(n: int, adapters: int) -> tuple[int, int]:
    """Versions arrive in rounds, as in life: all first versions before all second ones."""
    if n > adapters * VERSIONS:
        return adapters + 1, n - adapters * VERSIONS
    return (n - 1) % adapters + 1, (n - 1) // adapters + 1


def _files(n: int) -> Iterator[tuple[Any, ...]]:
    weights = digest("weights", n)
    yield (n, "adapter_model.safetensors", "file", weights, weights, 1_000_000)
    yield (n, "adapter_config.json", "file", weights, weights, 700)


def _documents(n: int) -> Iterator[tuple[Any, ...]]:
    yield (n, "modules", MODULES[n % len(MODULES)])
    yield (n, "config", CONFIG)


def _tags(n: int) -> Iterator[tuple[Any, ...]]:
    yield (n, "stage", "prod" if n * 7919 % 10007 < 5003 else "dev")  # half of the rows
    yield (n, "ticket", f"t-{n % 1009}")  # about 200 rows each
    yield (n, "seed", str(n % 10))
    for key, values in _MANY:
        yield (n, key, f"{key}-{n * 7927 % 10009 % values}")


def _metrics(n: int) -> Iterator[tuple[Any, ...]]:
    yield (n, "loss", n * 31 % 10007 / 10007)
    yield (n, "accuracy", n * 37 % 10009 / 10009)


def _aliases(adapter: int) -> Iterator[tuple[Any, ...]]:
    yield (adapter, "prod", adapter, "2026-01-01 00:00:00")


def _lineage(versions: int) -> Iterator[tuple[Any, ...]]:
    adapters = versions // VERSIONS
    for n in range(adapters + 1, versions + 1):
        yield (n, n, n - adapters, digest("version", n - adapters), "finetuned_from")
    for n in range(versions + 2, versions + CHAIN + 1):
        yield (n, n, n - 1, digest("version", n - 1), "finetuned_from")
