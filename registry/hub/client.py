"""The Hub by way of `huggingface_hub`: its cache, its tokens, its endpoint; our bounds, our silence, our errors."""

from __future__ import annotations

import re
import time
import warnings
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeVar

from registry.errors import TransientError, UnavailableError
from registry.hub.faults import asked_to_wait, asking
from registry.values import jitter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from huggingface_hub import HfApi

    from registry.settings import Settings

_T = TypeVar("_T")
LONGEST_WAIT = 60.0  # seconds a server may ask us to wait before we give up instead
_TRIES = 4
_FIRST_WAIT = 0.5  # seconds
_PATH_PART = re.compile(r'(?:W/)?"?[A-Za-z0-9_-]{1,200}"?', re.ASCII)
_MOST_ANSWERS = 20_000  # of one connection: a server that pages or redirects for ever is left
_LONGEST_ANSWER = 64 << 20  # bytes of one answer that is read whole, unpacked; files come in chunks, and are metered
_SECONDS = {"connect": 10.0, "read": 60.0, "write": 60.0, "pool": 60.0}


@contextmanager
def connected(settings: Settings) -> Iterator[HfApi]:
    """The library's client. While the block runs its shared session keeps our bounds, and it prints nothing."""
    from huggingface_hub import HfApi

    with _quiet(), _bounded():
        yield HfApi(
            endpoint=settings.hub_endpoint,
            library_name="adapter-registry",
            library_version=version("adapter-registry"),
        )


def asked(what: str, call: Callable[[], _T]) -> _T:
    """What a call answers, asked again a few times where that may help: after the server's Retry-After, else with
    pauses that grow. Not for calls that the library itself repeats.
    """
    for turn in range(_TRIES):
        try:
            with asking(what):
                return call()
        except TransientError as error:
            if turn + 1 == _TRIES:
                raise
            wait = jitter.pause(turn, first=_FIRST_WAIT, longest=LONGEST_WAIT)
            time.sleep(wait if error.wait is None else error.wait)
    raise AssertionError(what)  # pragma: no cover


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars and no warnings of the library: they would tell addresses, signed ones too."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, logging

    level, barred = logging.get_verbosity(), are_progress_bars_disabled()
    logging.set_verbosity(logging.CRITICAL)
    if not barred:
        disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if not barred:
            enable_progress_bars()


@contextmanager
def _bounded() -> Iterator[None]:
    """Time limits where the library sets none, no waiting for as long as a server likes, and no answer without end."""
    from huggingface_hub.utils import get_session

    answers = 0

    def limit(request: Any) -> None:
        given = request.extensions.get("timeout") or {}
        request.extensions["timeout"] = {key: min(given.get(key) or most, most) for key, most in _SECONDS.items()}

    def refuse(response: Any) -> None:
        nonlocal answers
        answers += 1
        _check_names(response)
        response.iter_bytes = partial(_limited, response.iter_bytes)
        wait = asked_to_wait(response.headers) if response.status_code in (429, 503) else None
        if wait is not None and wait > LONGEST_WAIT:
            raise UnavailableError(f"the Hub asks to wait for {wait:.0f} s", hint="run the command again then")
        if answers > _MOST_ANSWERS:
            raise UnavailableError(f"the Hub has no end of answers: more than {_MOST_ANSWERS}")

    hooks = get_session().event_hooks
    hooks["request"].append(limit)
    hooks["response"].append(refuse)
    try:
        yield
    finally:
        hooks["request"].remove(limit)
        hooks["response"].remove(refuse)


def _limited(read: Callable[[int | None], Iterator[bytes]], chunk_size: int | None = None) -> Iterator[bytes]:
    """An answer's bytes as they come. One that is read whole, into memory, asks for no size of chunk; a file does."""
    size = 0
    for part in read(chunk_size):
        size += len(part)
        if chunk_size is None and size > _LONGEST_ANSWER:
            raise UnavailableError(f"the Hub's answer is longer than {_LONGEST_ANSWER >> 20} MiB")
        yield part


def _check_names(response: Any) -> None:
    """The library makes paths in its cache of these headers without looking at them."""
    for header in ("ETag", "X-Linked-Etag", "X-Repo-Commit"):
        value = response.headers.get(header)
        if response.request.method == "HEAD" and value is not None and not _PATH_PART.fullmatch(value):
            raise UnavailableError(f"the Hub's answer cannot be read: {header} {value[:80]!r} is no file's name")
