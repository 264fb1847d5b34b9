"""Large files go to S3 in parts, each under a signed sha256 of its own that the store compares it with.

The sums were made together with the file's digest, so nothing is hashed again here, and a part that is not what was
staged is refused by the store, whatever happened to it. By botocore: obstore takes no sums that are known already.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from registry.errors import CorruptError
from registry.files.partsums import encoded
from registry.store.bucket.multiparts import Refused, called

if TYPE_CHECKING:
    from threading import Event

    from registry.errors import RegistryError
    from registry.files.partsums import PartSums
    from registry.files.staging import StagedFile
    from registry.store.bucket.bucket import Bucket

_STREAMS = 4
_TRIAL = b"does this store compare what it receives?"
_WRONG = hashlib.sha256(b"").digest()
_UNLIKE = ("Digest", "Mismatch")  # BadDigest, XAmzContentChecksumMismatch


class Stopped(Exception):  # noqa: N818 (told to nobody: who stops an upload has an error of their own)
    """Nobody waits for an upload any more."""


def send_checked(bucket: Bucket, key: str, file: StagedFile, parts: PartSums, stop: Event) -> bool:
    """Stores the file as `key`; an object appears whole or not at all, in place of what was there. True where the store
    compared every part with its sum and tells the sum of all. False where it does not, or cannot be asked so.

    CorruptError, with the object as it was, where the staged copy changed or a part arrived as something else;
    IntakeError where what changed is a file that was left in its place; Stopped once `stop` is set.
    """
    upload = _begun(bucket, key)
    if upload is None:
        bucket.compares = False
        return False
    try:
        upload.finish(_sent(upload, file, parts, stop))
    except BaseException:
        upload.give_up()
        raise
    return upload.told() == (file.size, parts.composite)


def compares_sums(bucket: Bucket) -> bool:
    """Whether a store refuses a part that is not what its sum says, tried on an upload that is given up."""
    upload = _begun(bucket, "probe/sums")
    if upload is not None:
        upload.give_up()
    return upload is not None


@dataclass(frozen=True, slots=True)
class _Upload:
    """An upload in parts that was begun; `place` is what names its object to botocore."""

    bucket: Bucket
    client: Any
    place: dict[str, str]
    identity: dict[str, str]

    def put(self, number: int, content: bytes | bytearray, digest: bytes) -> dict[str, object]:
        """Sends one part, once; what has to be said of it in the end."""
        part = {"PartNumber": number, "ChecksumSHA256": encoded(digest)}
        answer = called(self.client.upload_part, **self.place, **self.identity, **part, Body=content)
        return {**part, "ETag": answer["ETag"]}

    def compares(self) -> bool:
        """Whether a first part is refused under a wrong sum and taken under its own; the real one takes its place."""
        try:
            self.put(1, _TRIAL, _WRONG)
        except Refused as error:
            if error.status != 400:
                raise
            self.put(1, _TRIAL, hashlib.sha256(_TRIAL).digest())
            return True
        return False

    def finish(self, sent: list[dict[str, object]]) -> None:
        """Makes the object. Where no upload of that name is left an answer was lost: `told` knows what came of it."""

        def complete() -> None:
            try:
                parts = {"Parts": sent}
                called(self.client.complete_multipart_upload, **self.place, **self.identity, MultipartUpload=parts)
            except Refused as error:
                if error.code != "NoSuchUpload":
                    raise

        self.bucket.ask(complete)

    def told(self) -> tuple[int, str]:
        """The object's size, and the sum that the store made of its parts' sums; not every store adds their number."""
        answer = self.bucket.ask(lambda: called(self.client.head_object, **self.place, ChecksumMode="ENABLED"))
        return answer["ContentLength"], answer.get("ChecksumSHA256", "").partition("-")[0]

    def give_up(self) -> None:
        """Lets the store forget the parts; where that fails, gc does it after a day."""
        try:
            called(self.client.abort_multipart_upload, **self.place, **self.identity)
        except Refused:
            return


def _begun(bucket: Bucket, key: str) -> _Upload | None:
    """None where the store does not compare sums, refuses to be asked, or botocore is not here: obstore's way is left,
    and tells what is wrong.
    """
    try:
        client = bucket.parts
        place = {"Bucket": bucket.url.bucket, "Key": "/".join(filter(None, (bucket.url.prefix, key)))}
        answer = called(client.create_multipart_upload, **place, ChecksumAlgorithm="SHA256")
        upload = _Upload(bucket, client, place, {"UploadId": answer["UploadId"]})
    except (Refused, ImportError):
        return None
    try:
        if upload.compares():
            return upload
    except Refused:
        pass
    upload.give_up()
    return None


def _sent(upload: _Upload, file: StagedFile, parts: PartSums, stop: Event) -> list[dict[str, object]]:
    buffers: SimpleQueue[bytearray] = SimpleQueue()
    for _ in range(_STREAMS):
        buffers.put(bytearray(parts.size))
    with file.opened() as source, ThreadPoolExecutor(_STREAMS) as streams:
        sending = _Sending(upload, file, parts, source, buffers, stop)
        tasks = [streams.submit(sending.part, number) for number in range(len(parts.sums))]
        try:
            wait(tasks, return_when=FIRST_EXCEPTION)
        finally:
            streams.shutdown(wait=False, cancel_futures=True)
        for task in tasks:
            if not task.cancelled():
                task.result()
        return [task.result() for task in tasks]


@dataclass(frozen=True, slots=True)
class _Sending:
    """Parts on their way, each in one of a few buffers: fresh memory for each would take longer to get than to fill."""

    upload: _Upload
    file: StagedFile
    parts: PartSums
    source: int
    buffers: SimpleQueue[bytearray]
    stop: Event

    def part(self, number: int) -> dict[str, object]:
        """Reads and sends one, with tries."""
        if self.stop.is_set():
            raise Stopped
        buffer, wanted = self.buffers.get(), self.parts.sums[number]
        try:
            filled = os.preadv(self.source, [buffer], number * len(buffer))
            content = buffer if filled == len(buffer) else buffer[:filled]
            return self.upload.bucket.ask(lambda: self._once(number, content, wanted))
        finally:
            self.buffers.put(buffer)

    def _once(self, number: int, content: bytearray, wanted: bytes) -> dict[str, object]:
        try:
            return self.upload.put(number + 1, content, wanted)
        except Refused as error:
            if any(sign in error.code for sign in _UNLIKE):
                raise _unlike(self.upload, self.file, content, wanted) from None
            raise


def _unlike(upload: _Upload, file: StagedFile, content: bytearray, wanted: bytes) -> RegistryError:
    """What is wrong with a part that the store refused: it changed here, or on its way."""
    found = hashlib.sha256(content).digest()
    if found != wanted:
        return file.changed(f"{file.path}: a part", expected=f"sha256:{wanted.hex()}", actual=f"sha256:{found.hex()}")
    return CorruptError(
        f"{upload.bucket.label}: a part of {file.digest}",
        expected=f"sha256:{wanted.hex()}",
        actual="other bytes on arrival",
        hint="it did not arrive as it was sent: run the same command again, which sends it anew",
    )
