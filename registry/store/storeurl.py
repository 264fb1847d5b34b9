"""A store's URL, parsed once: bucket, prefix, endpoint, region. A secret in it is refused, and never said again."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qsl, urlsplit

from registry.errors import UsageError

SCHEMES = {"s3": "s3", "gs": "gs", "az": "az"}
_PARAMETERS = {"s3": ("endpoint", "region"), "gs": ("endpoint",), "az": ("account", "endpoint")}
_CHAIN = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the machine's role",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, gcloud's login, or the machine's service account",
    "az": "AZURE_STORAGE_ACCOUNT_KEY, az login, or the machine's managed identity",
}
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}", re.ASCII)
_PREFIX_PART = re.compile(r"[A-Za-z0-9._=+-]+", re.ASCII)
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """Where objects are: nothing in it is a secret. `prefix` has no slash at either end and may be empty."""

    scheme: str
    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    account: str | None = None

    @property
    def label(self) -> str:
        """The URL for people, with the endpoint where one was given."""
        place = "/".join(filter(None, (self.bucket, self.prefix)))
        return f"{self.scheme}://{place}" + (f" at {self.endpoint}" if self.endpoint else "")

    @property
    def chain(self) -> str:
        """Where credentials may come from, in words."""
        return _CHAIN[self.scheme]


def parse_store_url(text: str) -> StoreUrl:
    """`s3://bucket/prefix?endpoint=…&region=…`, `gs://…`, `az://container/prefix?account=…`.

    UsageError for anything else. It never repeats what may be a secret: values and unknown parts stay out of it.
    """
    try:
        parts = urlsplit(text)
    except ValueError:
        raise UsageError("the store URL cannot be read", hint=_example("s3")) from None
    scheme = SCHEMES.get(parts.scheme)
    if scheme is None:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise UsageError(
            f"store URL of scheme {parts.scheme[:20]!r}: expected {known}, or none for the folder in the home"
        )
    _refuse_secrets(scheme, parts)
    return StoreUrl(scheme, _bucket(scheme, parts), _prefix(parts), **_parameters(scheme, parts))


def _example(scheme: str) -> str:
    return f"write {scheme}://BUCKET/PREFIX"


def _refuse_secrets(scheme: str, parts: SplitResult) -> None:
    if "@" in parts.netloc:
        raise _secret(scheme, "a user or password before its bucket")
    unknown = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True) if name not in _PARAMETERS[scheme]]
    if unknown:
        known = ", ".join(_PARAMETERS[scheme])
        raise _secret(scheme, f"a parameter other than {known}")
    if parts.fragment:
        raise _secret(scheme, "a part after '#'")


def _secret(scheme: str, what: str) -> UsageError:
    return UsageError(
        f"the {scheme}:// store URL has {what}; credentials never stand in it",
        hint=f"take it out; credentials come from {_CHAIN[scheme]}",
    )


def _bucket(scheme: str, parts: SplitResult) -> str:
    if not _BUCKET.fullmatch(parts.netloc):
        raise UsageError(f"the {scheme}:// store URL names no bucket", hint=_example(scheme))
    return parts.netloc


def _prefix(parts: SplitResult) -> str:
    names = [name for name in parts.path.split("/") if name]
    if any(name in (".", "..") or not _PREFIX_PART.fullmatch(name) for name in names):
        raise UsageError("the store URL's prefix may hold letters, digits, and . _ = + - between slashes")
    return "/".join(names)


def _parameters(scheme: str, parts: SplitResult) -> dict[str, str]:
    values = dict(parse_qsl(parts.query))
    if endpoint := values.get("endpoint"):
        values["endpoint"] = _endpoint(scheme, endpoint)
    for name in ("region", "account"):
        if name in values and not _PLAIN.fullmatch(values[name]):
            raise UsageError(f"the store URL's {name} is no name")
    return values


def _endpoint(scheme: str, text: str) -> str:
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if usable and "@" in parts.netloc:
        raise _secret(scheme, "a user or password in its endpoint")
    if not usable or parts.query or parts.fragment:
        raise UsageError(
            "the store URL's endpoint is no http:// or https:// address", hint="endpoint=https://HOST:PORT"
        )
    return text.rstrip("/")
