"""The one client of an object store, and its refusals in our words: no answer of a server is ever repeated."""

from __future__ import annotations

import re
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from registry.errors import MissingBlobError, RegistryError, UnavailableError
from registry.settings import has_environment_keys
from registry.store.blobs import DISCARD_S
from registry.store.bucket.multiparts import Refused, credentials, s3_client
from registry.values import jitter

if TYPE_CHECKING:
    from collections.abc import Callable

    from obstore.store import AzureStore, GCSStore, S3Store

    from registry.store.storeurl import StoreUrl

T = TypeVar("T")

TRIES = 8
PATIENCE = timedelta(seconds=60)
_FIRST_WAIT = 0.1  # seconds
_LONGEST_WAIT = 15.0
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,64})</Code>")
_NO_BUCKET = frozenset({"NoSuchBucket", "ContainerNotFound"})
_CLOCK = frozenset({"RequestTimeTooSkewed", "RequestExpired"})


class Bucket:
    """A bucket and the client that reaches it, made at the first call. A class because it keeps that client, and
    whether this process knows that the bucket is its catalog's, and that it does not compare sums.
    """

    def __init__(self, url: StoreUrl) -> None:
        self.url = url
        self.claimed = False
        self.compares = url.scheme == "s3"
        self._client: S3Store | GCSStore | AzureStore | None = None
        self._hasty: S3Store | GCSStore | AzureStore | None = None
        self._parts: Any = None

    def __reduce__(self) -> tuple[type[Bucket], tuple[StoreUrl]]:
        return Bucket, (self.url,)

    @property
    def label(self) -> str:
        """Where it is, without secrets."""
        return self.url.label

    @property
    def client(self) -> S3Store | GCSStore | AzureStore:
        """Obstore's client, which tries what may be tried again up to TRIES times within PATIENCE."""
        if self._client is None:
            self._client = self.ask(lambda: _connect(self.url))
        return self._client

    @property
    def hasty(self) -> S3Store | GCSStore | AzureStore:
        """A client that asks once and gives up within DISCARD_S, for what must not reach the store late."""
        if self._hasty is None:
            self._hasty = self.ask(lambda: _connect(self.url, tries=1, limit=timedelta(seconds=DISCARD_S)))
        return self._hasty

    @property
    def parts(self) -> Any:
        """Botocore's client, which signs the sum of a part in place of the part. ImportError where it is not installed,
        Refused where it finds no credentials.
        """
        if self._parts is None:
            self._parts = s3_client(self.url, tries=TRIES, s3={"payload_signing_enabled": False})
        return self._parts

    def ask(self, request: Callable[[], T], digest: str | None = None, *, tries: int | None = None) -> T:
        """The answer to a request. What obstore raises becomes MissingBlobError for `digest`, or UnavailableError that
        names bucket and cause; the original is dropped: it repeats the server's answer, in which anything may stand.

        obstore has tried again already where no answer or a 5xx came. A conflict and a cut answer are tried again here,
        with pauses in between, unless `tries` is 1.
        """
        tries = tries or TRIES
        until = time.monotonic() + PATIENCE.total_seconds()
        for turn in range(tries):
            try:
                return request()
            except RegistryError:
                raise
            except Exception as error:
                refusal = _refusal(self.url, error, digest)
                if refusal is None:
                    raise
                if turn == tries - 1 or time.monotonic() > until or not _passing(error):
                    raise refusal from None
            time.sleep(jitter.pause(turn, first=_FIRST_WAIT, longest=_LONGEST_WAIT))
        raise AssertionError("the last turn returns or raises")


def _connect(
    url: StoreUrl, *, tries: int | None = None, limit: timedelta = timedelta(minutes=10)
) -> S3Store | GCSStore | AzureStore:
    try:
        from obstore import store
    except ImportError:
        raise UnavailableError(
            f"{url.label}: obstore is not installed", hint="pip install 'adapter-registry[s3]'"
        ) from None
    settings: dict[str, Any] = {
        "prefix": url.prefix or None,
        "client_options": {
            "allow_http": (url.endpoint or "").startswith("http:"),
            "connect_timeout": timedelta(seconds=5),
            "read_timeout": timedelta(seconds=60),
            "timeout": limit,
        },
        "retry_config": {
            "max_retries": (tries or TRIES) - 1,
            "retry_timeout": PATIENCE,
            "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=15), "base": 2},
        },
    }
    if url.scheme == "s3":
        named: dict[str, Any] = {"endpoint": url.endpoint, "region": url.region}
        # botocore knows more places, and takes a moment to import: what the environment says needs neither
        named["credential_provider"] = None if has_environment_keys() else credentials()
        return store.S3Store(url.bucket, **settings, **{key: value for key, value in named.items() if value})
    if url.scheme == "gs":
        named = {"service_url": url.endpoint}
        return store.GCSStore(url.bucket, **settings, **{key: value for key, value in named.items() if value})
    named = {"endpoint": url.endpoint, "account_name": url.account}
    return store.AzureStore(url.bucket, **settings, **{key: value for key, value in named.items() if value})


def _refusal(url: StoreUrl, error: Exception, digest: str | None) -> RegistryError | None:
    from obstore.exceptions import BaseError

    if not isinstance(error, (BaseError, FileNotFoundError, Refused)):
        return None
    text = str(error)
    status = found.group(1) if (found := _STATUS.search(text)) else None
    code = found.group(1) if (found := _CODE.search(text)) else ""
    if code in _NO_BUCKET:
        hint = "create it, or correct the store URL"
        return UnavailableError(f"{url.label}: there is no bucket {url.bucket!r}", hint=hint)
    if isinstance(error, FileNotFoundError) and digest is not None:
        return MissingBlobError(f"{url.label}: {digest}", expected=digest, actual="no object")
    if code in _CLOCK:
        hint = "set this machine's clock"
        return UnavailableError(f"{url.label}: this machine's clock and the store's are too far apart", hint=hint)
    if status in ("401", "403"):
        said = f"{status} {code}".strip()
        return UnavailableError(f"{url.label}: not permitted ({said})", hint=f"credentials come from {url.chain}")
    if status is not None:
        said = f"{status} {code}".strip()
        return UnavailableError(f"{url.label}: the store answered {said}", hint="run the same command again later")
    return UnavailableError(f"{url.label}: {_cause(text)}", hint="run the same command again")


def _cause(text: str) -> str:
    """What kept an answer from coming, told by the few words that the HTTP client uses for it."""
    lower = text.lower()
    for sign, words in _CAUSES.items():
        if sign in lower:
            return words
    return "the store gave no usable answer"


_CAUSES = {
    "latest/api/token": "no credentials were found, and no machine role answers",
    "endpointconnectionerror": "nothing answers there",
    "timeouterror": "the store did not answer in time",
    "connectionclosederror": "the store broke the connection",
    "sslerror": "its certificate is not trusted",
    "credential": "no credentials were found",
    "connection refused": "nothing answers there (connection refused)",
    "dns error": "there is no host of that name",
    "certificate": "its certificate is not trusted",
    "timed out": "the store did not answer in time",
    "connection reset": "the store broke the connection",
    "connection closed": "the store broke the connection",
    "end of file": "the store broke the connection",
    "scheme is not allowed": "plain http:// is only used for an endpoint= that says so",
}


def refused_with(error: Exception) -> int | None:
    """The HTTP status in what obstore raised, where there was an answer."""
    found = _STATUS.search(str(error))
    return int(found.group(1)) if found else None


def _passing(error: Exception) -> bool:
    """What obstore gives up on at once, and yet may go well the next time."""
    status = refused_with(error)
    return status == 409 or (status is None and "body error" in str(error))
