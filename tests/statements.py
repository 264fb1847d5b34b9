"""SQL that one test has compiled is not compiled again for the next, whose registry has an engine of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, event

if TYPE_CHECKING:
    from sqlalchemy import Connection


class _Compiled(dict[Any, Any]):
    """Compiled statements by everything but the engine's own copy of its dialect."""

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get(key[1:], default)

    def __setitem__(self, key: Any, compiled: Any) -> None:
        super().__setitem__(key[1:], compiled)


_by_dialect: dict[str, _Compiled] = {}


@event.listens_for(Engine, "engine_connect")
def _share(connection: Connection) -> None:
    compiled = _by_dialect.setdefault(connection.dialect.name, _Compiled())
    connection.execution_options(compiled_cache=compiled)
