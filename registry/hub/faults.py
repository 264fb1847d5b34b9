"""What an error of `huggingface_hub` means, translated at this edge; no message of ours carries a URL or a token."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from registry.errors import (
    ConflictError,
    NotFoundError,
    RegistryError,
    TransientError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from huggingface_hub.errors import HfHubHTTPError

_LOGIN = "hf auth login, or set HF_TOKEN, with a token that may read it"
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, AssertionError)
_ADDRESS = re.compile(r"[a-z+]+://\S+", re.IGNORECASE)
_FAILING = frozenset({408, 425, 500, 502, 503, 504})


@contextmanager
def asking(what: str) -> Iterator[None]:
    """Turns whatever the library raises inside the block into an error of ours that names `what`."""
    try:
        yield
    except RegistryError:
        raise
    except Exception as error:  # noqa: BLE001 (the library raises much; translated tells it apart)
        raise translated(error, what) from None


def translated(error: Exception, what: str) -> RegistryError:
    """The error of ours; what is of no known kind is the server's answer that the library could not read."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    for cause in _chain(error):
        if isinstance(cause, RegistryError):
            return cause
        if isinstance(cause, OfflineModeIsEnabled):
            return UnavailableError(f"{what}: HF_HUB_OFFLINE is set, so the Hub is not asked", hint="unset it")
        if isinstance(cause, HfHubHTTPError):
            return _refusal(cause, what)
        if type(cause).__module__.partition(".")[0].startswith("httpx"):
            return TransientError(f"{what}: the Hub{_host(cause)} cannot be reached: {type(cause).__name__}")
    if isinstance(error, OSError) and error.errno is not None:
        return UnavailableError(f"{what}: {error.filename or 'the cache'}: {error.strerror}")
    last = list(_chain(error))[-1]
    kind = "cannot be read" if isinstance(error, _MALFORMED) else "is not what was expected"
    return UnavailableError(f"{what}: the Hub's answer {kind}: {type(last).__name__}: {_cleaned(str(last))}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from: the library wraps some in others."""
    for _ in range(10):
        if error is None:
            return
        yield error
        error = error.__cause__


def _host(error: BaseException) -> str:
    """Which host was asked, where the error knows; a host's name alone, for the rest of an address may be secret."""
    try:
        request: Any = getattr(error, "request", None)
    except RuntimeError:  # httpx has the attribute, and raises where it was never set
        return ""
    return "" if request is None else f" at {request.url.host}"


def _refusal(error: HfHubHTTPError, what: str) -> RegistryError:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return NotFoundError(f"{what}: gated: ask for access on its page, then use a token that has it", hint=_LOGIN)
    if isinstance(error, errors.RepositoryNotFoundError):
        return NotFoundError(f"{what}: no such repo, or a private one that {_who()} may not see", hint=_LOGIN)
    if isinstance(error, errors.RevisionNotFoundError):
        return NotFoundError(f"{what}: no such revision")
    if isinstance(error, errors.EntryNotFoundError):
        return NotFoundError(f"{what}: no such file or folder there")
    return _by_status(error.response.status_code, error, what)


def _by_status(status: int, error: HfHubHTTPError, what: str) -> RegistryError:
    said = _cleaned(error.server_message or "")
    because = f": {said}" if said else ""
    if status == 401:
        return UnavailableError(f"{what}: the Hub does not take this token", hint="hf auth login")
    if status == 403:
        return UnavailableError(f"{what}: {_who()} may not do this{because}", hint="hf auth whoami")
    if status in (409, 412):
        return ConflictError(f"{what}: changed meanwhile by someone else", hint="run the command again")
    if status == 429:
        wait = asked_to_wait(error.response.headers)
        return TransientError(f"{what}: the Hub asks for fewer requests", hint="try again in some minutes", wait=wait)
    if status in _FAILING:
        wait = asked_to_wait(error.response.headers)
        return TransientError(f"{what}: the Hub fails with {status}", wait=wait)
    return UnavailableError(f"{what}: the Hub answers {status}{because}")


def asked_to_wait(headers: Any) -> float | None:
    """How many seconds the server asks for, by Retry-After or by its rate limit's headers."""
    from huggingface_hub.utils import parse_ratelimit_headers

    value = str(headers.get("Retry-After") or "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    limit = parse_ratelimit_headers(headers)
    return float(limit.reset_in_seconds) if limit is not None and limit.remaining == 0 else None


def _who() -> str:
    from huggingface_hub import get_token

    return "this token" if get_token() else "someone without a token"


def _cleaned(text: str) -> str:
    """At most 200 characters on one line, without addresses (they may be signed) and whatever the server echoes."""
    from huggingface_hub import get_token

    token = get_token()
    clean = text.replace(token, "…") if token else text
    return " ".join(_ADDRESS.sub("…", clean).split())[:200]
