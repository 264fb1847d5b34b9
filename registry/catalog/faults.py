"""What a database driver's error means: translated once, at the edge."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from registry.errors import BusyError, RegistryError, SchemaError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

# https://www.sqlite.org/rescode.html, primary codes
_SQLITE_BUSY = frozenset({5, 6})
_SQLITE_WORDS = {
    3: "may not be opened: permission denied",
    8: "is read-only",
    10: "cannot be read or written: disk I/O error",
    11: "is damaged (database disk image is malformed)",
    13: "cannot be written: the disk is full",
    14: "cannot be opened",
    23: "may not be opened: not authorised",
    26: "is not a SQLite database",
}
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_POSTGRES_BUSY = frozenset({"40001", "40P01", "55P03"})
_POSTGRES_WORDS = {
    "08": "connection lost",
    "25006": "is read-only",
    "28": "refused the login",
    "3D": "does not exist",
    "42501": "refused: permission denied",
    "53": "is out of resources",
    "57": "stopped the work",
    "58": "had a system error",
}
_UNIQUE_VIOLATION = "23505"
_SQLITE_UNIQUE = frozenset({1555, 2067})


@contextmanager
def translated(label: str) -> Iterator[None]:
    """Raise what a person can act on; an integrity or programming error goes through unchanged."""
    try:
        yield
    except RegistryError:
        raise
    except PoolTimeoutError as error:
        raise UnavailableError(f"{label}: no connection became free") from error
    except DBAPIError as error:
        meaning = _meaning(error, label)
        if meaning is None:
            raise
        raise meaning from error


def outcome_unknown(error: DBAPIError) -> bool:
    """Whether a COMMIT that failed like this may have been done: the server went away instead of answering."""
    state = _sqlstate(error)
    return _sqlite_code(error) is None and (state is None or state.startswith(("08", "57P")))


def _meaning(error: DBAPIError, label: str) -> RegistryError | None:
    code = _sqlite_code(error)
    if code is not None:
        return _sqlite_meaning(code, label)
    return _postgres_meaning(error, label)


def _sqlite_meaning(code: int, label: str) -> RegistryError | None:
    if code & 0xFF in _SQLITE_BUSY:
        return BusyError(f"{label} is locked by another process", hint="try again when it is done")
    if code in _SQLITE_UNIQUE:
        return BusyError(f"{label}: another process took the same number or name at the same moment")
    words = _SQLITE_WORDS.get(code & 0xFF)
    if words is None:
        return None
    return (SchemaError if code & 0xFF == 26 else UnavailableError)(f"{label} {words}")


def _postgres_meaning(error: DBAPIError, label: str) -> RegistryError | None:
    state = _sqlstate(error)
    if state is None:
        reason = str(error.orig).strip().partition("\n")[0]
        return UnavailableError(f"{label} cannot be reached: {reason}") if _is_connection_error(error) else None
    if state in _POSTGRES_BUSY:
        return BusyError(f"{label} is busy: {_first_line(error)}", hint="try again")
    if state == _UNIQUE_VIOLATION:
        return BusyError(f"{label}: another process took the same number or name at the same moment")
    words = _POSTGRES_WORDS.get(state) or _POSTGRES_WORDS.get(state[:2])
    return None if words is None else UnavailableError(f"{label} {words}: {_first_line(error)}")


def _is_connection_error(error: DBAPIError) -> bool:
    return type(error).__name__ in ("OperationalError", "InterfaceError")


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().partition("\n")[0]


def _sqlite_code(error: DBAPIError) -> int | None:
    code = getattr(error.orig, "sqlite_errorcode", None)
    return code if isinstance(code, int) else None


def _sqlstate(error: DBAPIError) -> str | None:
    state = getattr(error.orig, "sqlstate", None)
    return state if isinstance(state, str) else None
