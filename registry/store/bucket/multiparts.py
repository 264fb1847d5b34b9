"""What obstore has no call for, by botocore where that is installed: S3's whole credential chain, and uploads in parts
that their process never finished.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from registry.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from obstore.store import S3Credential

    from registry.store.storeurl import StoreUrl

KEPT = timedelta(days=1)  # longer than any upload takes
_TTL = timedelta(minutes=30)
_CODE = re.compile(r"[A-Za-z0-9.]{1,64}", re.ASCII)
RULE = "a lifecycle rule of the bucket, AbortIncompleteMultipartUpload after 2 days, removes them"


class Refused(Exception):  # noqa: N818 (what becomes of it depends on who asked)
    """What botocore's client was answered, or why it got no answer; its text reads like obstore's."""

    def __init__(self, status: int | None, code: str) -> None:
        self.status = status
        self.code = code if _CODE.fullmatch(code) else ""
        super().__init__(self.code if status is None else f"status code: {status} <Code>{self.code}</Code>")


class Multipart(NamedTuple):
    """An upload in parts that was begun and neither finished nor given up."""

    key: str
    upload: str


def credentials() -> Callable[[], S3Credential] | None:
    """Asks botocore's chain: environment, profiles, single sign-on, roles, containers, the machine. None where botocore
    is not installed or finds nothing: obstore then looks by itself.
    """
    try:
        import botocore.session
    except ImportError:
        return None
    found = botocore.session.get_session().get_credentials()
    if found is None:
        return None

    def provide() -> S3Credential:
        now = found.get_frozen_credentials()
        answer: S3Credential = {
            "access_key_id": now.access_key,
            "secret_access_key": now.secret_key,
            "token": now.token,
            "expires_at": datetime.now(UTC) + _TTL,
        }
        return answer

    return provide


def s3_client(url: StoreUrl, *, tries: int, **more: object) -> Any:
    """A client of botocore's for the store, `more` being settings of its own. ImportError where it is not installed."""
    import botocore.session
    from botocore.config import Config

    retries = {"total_max_attempts": tries, "mode": "standard"}
    limits = Config(retries=retries, connect_timeout=5, read_timeout=60, **more)
    region = {"region_name": url.region} if url.region else {}
    return botocore.session.get_session().create_client("s3", endpoint_url=url.endpoint, config=limits, **region)


def called(method: Callable[..., Any], **arguments: object) -> Any:
    """The answer of a client's method; Refused, of which nothing but status, code and kind is kept."""
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    try:
        return method(**arguments)
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        raise Refused(status, str(error.response.get("Error", {}).get("Code", ""))) from None
    except (BotoCoreError, HTTPError, ResponseParserError) as error:
        raise Refused(None, type(error).__name__) from None


def unfinished(url: StoreUrl) -> list[Multipart]:
    """Uploads of blobs in parts that began more than KEPT ago; none for a store that is not S3.

    UnavailableError where they cannot be listed.
    """
    return list(_asked(url, _unfinished))


def abort_unfinished(url: StoreUrl) -> int:
    """Gives those up, so that their parts cost nothing any more; how many."""

    def abort(client: Any, url: StoreUrl) -> Iterator[Multipart]:
        for one in _unfinished(client, url):
            client.abort_multipart_upload(Bucket=url.bucket, Key=one.key, UploadId=one.upload)
            yield one

    return len(list(_asked(url, abort)))


def _asked(url: StoreUrl, action: Callable[[Any, StoreUrl], Iterator[Multipart]]) -> Iterator[Multipart]:
    if url.scheme != "s3":
        return
    try:
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        raise UnavailableError(f"{url.label}: botocore is not installed", hint=RULE) from None
    try:
        yield from action(s3_client(url, tries=3), url)
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))[:64]
        raise UnavailableError(f"{url.label}: unfinished uploads: the store answered {code}", hint=RULE) from None
    except BotoCoreError as error:
        # its message may repeat settings; its name does not
        raise UnavailableError(f"{url.label}: unfinished uploads: {type(error).__name__}", hint=RULE) from None


def _unfinished(client: Any, url: StoreUrl) -> Iterator[Multipart]:
    before = datetime.now(UTC) - KEPT
    prefix = "/".join(filter(None, (url.prefix, "sha256/")))
    for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=url.bucket, Prefix=prefix):
        for one in page.get("Uploads", ()):
            if one["Initiated"] <= before:
                yield Multipart(one["Key"], one["UploadId"])
