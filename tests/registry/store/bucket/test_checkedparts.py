"""Large files in parts that the store itself compares: asked first, sent once, and what becomes of every fault."""

import base64
import hashlib
import os
import sys
from threading import Event

import obstore
import pytest

from registry.errors import CorruptError, UnavailableError
from registry.files import partsums
from registry.store.bucket import bucket as buckets
from registry.store.bucket import checkedparts
from registry.store.bucket.bucket import Bucket
from registry.store.bucket.multiparts import s3_client
from registry.store.bucket.objects import ObjectStore
from registry.store.storeurl import parse_store_url

MIB = 1 << 20
PART = 8 * MIB
SIZE = 9 * MIB
SLOW_FAULTS = ("refused", "late", "twice", "500", "503", "lost-500")


@pytest.fixture
def proxy(proxy):
    proxy.comparing = True
    return proxy


@pytest.fixture
def store(s3_url, s3_server, proxy, tmp_path, monkeypatch):
    """A store to which every file is a large one."""
    monkeypatch.setattr(partsums, "LARGE", 1)
    monkeypatch.setattr(partsums, "PART", PART)
    monkeypatch.setattr(buckets, "TRIES", 2)
    monkeypatch.setattr(buckets, "_FIRST_WAIT", 0.01)
    return ObjectStore(Bucket(parse_store_url(s3_url.replace(s3_server, proxy.address))), tmp_path / "staging")


@pytest.fixture
def content():
    return os.urandom(SIZE)


def key_of(digest):
    return f"sha256/{digest[7:9]}/{digest[7:]}"


def push(store, content, *, meanwhile=lambda file: None):
    with store.staging() as staging:
        file = staging.add(content, name="file")
        meanwhile(file)
        store.place(file)
    return file.digest


def kept(store, digest):
    return bytes(obstore.get(store.bucket.client, key_of(digest)).bytes())


def unfinished(store):
    """What S3 lists of uploads that were begun and not ended."""
    client = s3_client(store.bucket.url, tries=1)
    return client.list_multipart_uploads(Bucket=store.bucket.url.bucket).get("Uploads", [])


def kinds(proxy):
    return [
        (request.method, "part" if "partNumber" in request.path else "upload" if "upload" in request.path else "object")
        for request in proxy.requests
    ]


def asking(proxy, request):
    """0 to 2 for the begin of the first upload, its wrong part and its right one; None for all that comes later."""
    before = kinds(proxy)[: request.number + 1]
    begun = before.count(("POST", "upload"))
    if begun > 1 or request.method not in ("POST", "PUT"):
        return None
    return 0 if request.method == "POST" else min(before.count(("PUT", "part")), 2)


class TestSending:
    def test_every_part_goes_once_after_two_small_ones_that_ask(self, store, proxy, content):
        digest = push(store, content)

        assert sorted(kinds(proxy)) == sorted(
            [
                ("HEAD", "object"),
                ("POST", "upload"),
                *[("PUT", "part")] * (2 + 2),
                ("POST", "upload"),
                ("HEAD", "object"),
            ]
        )
        assert kept(store, digest) == content

    def test_the_stores_sum_is_the_one_s3_documents(self, store, content):
        """sha256 of the parts' sha256s; 9 MiB in parts of 8. moto tells it without their number."""
        digest = push(store, content)
        sums = [hashlib.sha256(content[start : start + PART]).digest() for start in range(0, len(content), PART)]
        whole = base64.b64encode(hashlib.sha256(b"".join(sums)).digest()).decode()

        client = s3_client(store.bucket.url, tries=1)
        key = f"team/registry/{key_of(digest)}"
        told = client.head_object(Bucket=store.bucket.url.bucket, Key=key, ChecksumMode="ENABLED")

        assert told["ChecksumSHA256"] == whole

    def test_what_is_there_is_not_sent_again(self, store, proxy, monkeypatch):
        """In two parts, where obstore would have made three."""
        monkeypatch.setattr(partsums, "PART", 12 * MIB)
        content = os.urandom(17 * MIB)
        push(store, content)
        proxy.clear()

        push(store, content)

        assert kinds(proxy) == [("HEAD", "object")]

    def test_a_small_file_goes_by_obstore(self, store, proxy, content, monkeypatch):
        monkeypatch.setattr(partsums, "LARGE", len(content) + 1)

        push(store, content)

        assert kinds(proxy).count(("PUT", "part")) == 2

    @pytest.mark.parametrize(
        ("comparing", "words"), [(True, "compares what it receives with sums"), (False, "compares no sums")]
    )
    def test_doctor_tells_whether_a_store_compares(self, store, proxy, comparing, words):
        proxy.comparing = comparing

        assert ("store checksums", words) in [(check.name, check.detail) for check in store.checks()]
        assert unfinished(store) == []


class TestOtherStores:
    def test_one_that_does_not_compare_gets_it_by_obstore_and_is_not_asked_again(self, store, proxy, content):
        proxy.comparing = False

        assert kept(store, push(store, content)) == content

        assert kinds(proxy).count(("PUT", "part")) == 1 + 2
        assert unfinished(store) == []
        proxy.clear()
        assert kept(store, push(store, content + b"more")) == content + b"more"
        assert kinds(proxy).count(("PUT", "part")) == 2

    @pytest.mark.parametrize("fault", ["forbidden", "412"])
    @pytest.mark.parametrize("asked", [0, 1, 2])
    def test_one_that_refuses_to_be_asked_gets_it_by_obstore(self, store, proxy, content, fault, asked):
        """Each of the three requests that ask: the begin, the wrong part, the right one."""
        proxy.plan = lambda request: fault if asking(proxy, request) == asked else None

        assert kept(store, push(store, content)) == content
        assert not store.bucket.compares

    def test_without_botocore_it_goes_by_obstore(self, store, proxy, content, monkeypatch):
        monkeypatch.setitem(sys.modules, "botocore.session", None)

        push(store, content)

        assert kinds(proxy).count(("PUT", "part")) == 2

    @pytest.mark.parametrize("told", ["", "AAAA-2"])
    def test_one_that_tells_another_sum_in_the_end_is_not_believed(self, store, proxy, content, told):
        """It is sent again, by obstore, and proven by its ETag."""
        proxy.headers["x-amz-checksum-sha256"] = told

        assert kept(store, push(store, content)) == content
        assert kinds(proxy).count(("PUT", "part")) == 2 + 2 + 2


class TestFaults:
    def test_a_part_spoiled_on_its_way_leaves_the_object_as_it_was(self, store, proxy, content):
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        obstore.put(store.bucket.client, key_of(digest), b"other")
        proxy.plan = lambda request: "spoiled-request" if "partNumber=2" in request.path else None
        proxy.spoil = lambda body: body[:-1] + bytes([body[-1] ^ 1])

        with pytest.raises(CorruptError, match="on arrival") as caught:
            push(store, content)

        assert caught.value.hint.startswith("it did not arrive")
        assert kept(store, digest) == b"other"
        assert unfinished(store) == []

    @pytest.mark.parametrize("changed", [0, PART, SIZE - 1])
    def test_a_staged_file_that_changed_leaves_the_object_as_it_was(self, store, content, changed):
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        obstore.put(store.bucket.client, key_of(digest), b"other")

        def change(file):
            file.path.chmod(0o600)
            file.path.write_bytes(content[:changed] + bytes([content[changed] ^ 1]) + content[changed + 1 :])

        with pytest.raises(CorruptError, match="file: a part"):
            push(store, content, meanwhile=change)

        assert kept(store, digest) == b"other"
        assert unfinished(store) == []

    @pytest.mark.parametrize("length", [0, PART, SIZE - 1, SIZE + 1])
    def test_a_staged_file_of_another_length_never_becomes_an_object(self, store, content, length):
        def change(file):
            file.path.chmod(0o600)
            file.path.write_bytes((content + b"x")[:length])

        with pytest.raises(CorruptError):
            push(store, content, meanwhile=change)
        assert not store.exists(f"sha256:{hashlib.sha256(content).hexdigest()}")

    @pytest.mark.parametrize("kind", [("PUT", "part"), ("POST", "upload"), ("HEAD", "object")])
    @pytest.mark.parametrize(
        "fault",
        ["lost", "cut", "409", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_FAULTS)],
    )
    def test_one_fault_is_outlived_wherever_it_comes(self, store, proxy, content, kind, fault):
        """The last request of each kind is struck: a real part, the end of the upload, the look at what came of it."""
        last = {("PUT", "part"): 3, ("POST", "upload"): 1, ("HEAD", "object"): 1}[kind]
        seen = []

        def plan(request):
            if kinds(proxy)[request.number] != kind:
                return None
            seen.append(request)
            return fault if len(seen) == last + 1 else None

        proxy.plan = plan

        assert kept(store, push(store, content)) == content
        assert len(seen) > last

    def test_an_end_that_was_reached_before_is_looked_at(self, store, proxy, content):
        """S3 knows an upload no more once it is an object: the second asking is refused, the first was done."""

        def plan(request):
            ends = [one for one in kinds(proxy)[: request.number + 1] if one == ("POST", "upload")]
            return {2: "lost", 3: "gone"}.get(len(ends)) if request.method == "POST" else None

        proxy.plan = plan

        assert kept(store, push(store, content)) == content
        assert store.bucket.compares
        assert kinds(proxy).count(("PUT", "part")) == 2 + 2

    @pytest.mark.parametrize(("fault", "words"), [("forbidden", r"not permitted \(403"), ("503", "503 SlowDown")])
    def test_a_lasting_refusal_of_parts_is_told_in_our_words(self, store, proxy, content, fault, words):
        proxy.plan = lambda request: fault if "partNumber=2" in request.path else None

        with pytest.raises(UnavailableError, match=words):
            push(store, content)

        assert unfinished(store) == []

    def test_what_ends_another_file_ends_this_one_and_is_what_is_told(self, store, proxy, content, monkeypatch):
        """The first part of the large file is answered when the small one has failed."""
        monkeypatch.setattr(checkedparts, "_STREAMS", 1)
        monkeypatch.setattr(partsums, "LARGE", SIZE)
        failed = Event()

        def plan(request):
            if "partNumber=1" in request.path and asking(proxy, request) is None:
                failed.wait(30)
            small = request.method == "PUT" and "partNumber" not in request.path
            return "forbidden" if small else None

        def noticing(file, stop):
            try:
                place(store, file, stop)
            finally:
                failed.set() if file.size == 1 else None

        place = ObjectStore._place
        proxy.plan = plan
        monkeypatch.setattr(ObjectStore, "_place", lambda _, file, stop: noticing(file, stop))
        with store.staging() as staging, pytest.raises(UnavailableError, match="not permitted"):
            store.place(staging.add(content, name="large"), staging.add(b"x", name="small"))

        assert "partNumber=2" not in "".join(request.path for request in proxy.requests)
        assert unfinished(store) == []

    def test_an_interruption_gives_the_upload_up(self, store, content, monkeypatch):
        def interrupt(*arguments):
            raise KeyboardInterrupt

        monkeypatch.setattr(checkedparts._Sending, "part", interrupt)

        with pytest.raises(KeyboardInterrupt):
            push(store, content)

        assert unfinished(store) == []
