"""How PostgreSQL joins in the queries of the read side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, select

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

_SWITCHES = {
    "join_collapse_limit": "1",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_material": "off",
    "enable_seqscan": "off",
    "jit": "off",
    # Starting a worker takes longer than a page may.
    "max_parallel_workers_per_gather": "0",
}
_SWITCH = select(*[func.set_config(name, value, True) for name, value in _SWITCHES.items()])


def join_as_written(session: Session) -> None:
    """For the rest of this transaction: joins in the order of the query, each by an index.

    The queries begin with few rows and look the rest up by key. Right after a bulk load, or where tags go together,
    PostgreSQL's estimates say otherwise, and it reads whole tables. SQLite plans by the indexes there are, and needs
    no telling.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.connection().execute(_SWITCH)
