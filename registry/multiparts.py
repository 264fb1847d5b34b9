"""What obstore has no call for, by botocore where that is installed: S3's whole credential chain, and uploads in parts
that their process never finished.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from registry.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from obstore.store import S3Credential

    from registry.storeurl import StoreUrl

KEPT = timedelta(days=1)  # longer than any upload takes
_TTL = timedelta(minutes=30)
RULE = "a lifecycle rule of the bucket, AbortIncompleteMultipartUpload after 2 days, removes them"


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
        import botocore.session
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        raise UnavailableError(f"{url.label}: botocore is not installed", hint=RULE) from None
    try:
        limits = Config(retries={"total_max_attempts": 3, "mode": "standard"}, connect_timeout=5, read_timeout=60)
        session = botocore.session.get_session()
        region = {"region_name": url.region} if url.region else {}
        client = session.create_client("s3", endpoint_url=url.endpoint, config=limits, **region)
        yield from action(client, url)
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
