"""What only a store in a bucket has: checksums, parts, resumed downloads, errors of a server."""

import errno
import os
import stat
import time

import obstore
import pytest

from registry.errors import ConflictError, CorruptError, MissingBlobError, UnavailableError
from registry.store.bucket import bucket as buckets
from registry.store.bucket import partials
from registry.store.bucket.bucket import Bucket
from registry.store.bucket.objects import ObjectStore
from registry.store.storeurl import parse_store_url
from tests.buckets import make_bucket, store_url

HELLO = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # printf hello | sha256sum
MIB = 1 << 20


@pytest.fixture
def store(s3_url, s3_server, proxy, tmp_path, monkeypatch):
    """A store whose every request goes through the proxy; patience is short, since faults here last."""
    monkeypatch.setattr(buckets, "TRIES", 3)
    monkeypatch.setattr(buckets, "_FIRST_WAIT", 0.01)
    return ObjectStore(Bucket(parse_store_url(s3_url.replace(s3_server, proxy.address))), tmp_path / "staging")


def key_of(digest):
    name = digest.removeprefix("sha256:")
    return f"sha256/{name[:2]}/{name}"


def put(store, content):
    with store.staging() as staging:
        file = staging.add(content, name="file")
        store.place(file)
    return file.digest


def methods(proxy):
    return [request.method for request in proxy.requests]


class TestUploads:
    def test_an_object_has_the_documented_key(self, store):
        store.put_bytes(b"hello")

        assert bytes(obstore.get(store.bucket.client, f"sha256/2c/{HELLO[7:]}").bytes()) == b"hello"

    def test_what_the_store_proves_to_have_is_not_sent_again(self, store, proxy):
        """One HEAD, whose size and MD5 are those of the staged bytes."""
        store.put_bytes(b"hello")
        proxy.clear()

        store.put_bytes(b"hello")

        assert methods(proxy) == ["HEAD"]

    def test_a_large_file_that_is_there_is_not_sent_again(self, store, proxy):
        content = os.urandom(17 * MIB)
        put(store, content)
        assert "POST" in methods(proxy)  # a multipart upload
        proxy.clear()

        put(store, content)

        assert methods(proxy) == ["HEAD"]

    @pytest.mark.parametrize("wrong", [b"hellO", b"hell", b"hello!"])
    def test_an_object_of_that_name_with_other_bytes_is_replaced(self, store, wrong):
        obstore.put(store.bucket.client, key_of(HELLO), wrong)

        store.put_bytes(b"hello")

        assert store.read_bytes(HELLO) == b"hello"

    def test_without_a_checksum_from_the_store_all_is_read_back(self, store, proxy):
        """Stores that encrypt with KMS, and those that are not S3, answer an ETag that is no MD5."""
        proxy.headers["etag"] = '"not-an-md5"'

        store.put_bytes(b"hello")

        assert methods(proxy) == ["HEAD", "PUT", "GET"]

    def test_bytes_spoiled_on_the_way_are_found_before_a_row_can_name_them(self, store, proxy):
        proxy.spoil = lambda body: body.replace(b"hello", b"hellO")
        proxy.plan = lambda request: "spoiled-request" if request.method == "PUT" else None

        with pytest.raises(CorruptError) as caught:
            store.put_bytes(b"hello")

        assert caught.value.expected == HELLO

    @pytest.mark.parametrize("size", [5, 17 * MIB])
    def test_a_staged_file_that_changed_leaves_the_object_as_it_was(self, store, size):
        content = os.urandom(size)
        with store.staging() as staging:
            file = staging.add(content, name="file")
            store.place(file)
            obstore.put(store.bucket.client, key_of(file.digest), b"other")  # so that it is sent again
            file.path.chmod(0o600)
            file.path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

            with pytest.raises(CorruptError):
                store.place(file)

        assert bytes(obstore.get(store.bucket.client, key_of(file.digest)).bytes()) == b"other"


class TestDownloads:
    def test_a_download_goes_on_from_what_was_written(self, store, proxy, tmp_path):
        content = os.urandom(40 * MIB)
        digest = put(store, content)
        proxy.clear()
        proxy.plan = lambda request: "500" if "GET" in request.method and request.number >= 3 else None
        with pytest.raises(UnavailableError):
            store.copy_to(digest, tmp_path / "out")
        (kept,) = store.staging_root.glob("*.partial")
        here = kept.stat().st_size
        proxy.clear()

        assert store.copy_to(digest, tmp_path / "out") == 40 * MIB

        assert here >= 8 * MIB
        assert len(proxy.requests) == -(-(40 * MIB - here) // (8 * MIB))
        assert (tmp_path / "out").read_bytes() == content
        assert list(store.staging_root.iterdir()) == []

    def test_a_partial_download_with_wrong_bytes_is_fetched_anew(self, store, tmp_path):
        digest = store.put_bytes(b"hello")
        (store.staging_root / f"{digest[7:]}.partial").write_bytes(b"hexl")

        assert store.copy_to(digest, tmp_path / "out") == 5
        assert (tmp_path / "out").read_bytes() == b"hello"

    @pytest.mark.parametrize("kept", [b"hello", b"hello, and more"])
    def test_a_partial_download_of_all_or_more_is_right_in_the_end(self, store, tmp_path, kept):
        digest = store.put_bytes(b"hello")
        (store.staging_root / f"{digest[7:]}.partial").write_bytes(kept)

        store.copy_to(digest, tmp_path / "out")

        assert (tmp_path / "out").read_bytes() == b"hello"

    def test_wrong_bytes_in_the_store_leave_no_partial_download(self, store, tmp_path):
        digest = store.put_bytes(b"hello")
        obstore.put(store.bucket.client, key_of(digest), b"hellO")

        with pytest.raises(CorruptError):
            store.copy_to(digest, tmp_path / "out")

        assert list(tmp_path.rglob("*.partial")) == []
        assert not (tmp_path / "out").exists()

    def test_two_downloads_of_one_blob_do_not_share_a_file(self, store, tmp_path):
        digest = store.put_bytes(b"hello")
        with partials.partial(store.staging_root, digest) as kept:
            os.write(kept, b"he")

            store.copy_to(digest, tmp_path / "out")

            assert os.fstat(kept).st_size == 2
        assert (tmp_path / "out").read_bytes() == b"hello"

    def test_another_file_system_gets_a_copy(self, store, tmp_path, monkeypatch):
        def refuse(source, destination):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

        monkeypatch.setattr(os, "link", refuse)
        digest = store.put_bytes(b"hello")

        store.copy_to(digest, tmp_path / "out", mode=0o640)

        assert (tmp_path / "out").read_bytes() == b"hello"
        assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o640
        assert list(store.staging_root.iterdir()) == []

    def test_a_forgotten_partial_download_is_stale_after_a_day(self, store):
        store.put_bytes(b"hello")
        old, new = store.staging_root / f"{'0' * 64}.partial", store.staging_root / f"{'1' * 64}.partial"
        for path in (old, new):
            path.write_bytes(b"he")
        os.utime(old, (time.time() - 86_401,) * 2)

        assert store.stale_staging() == [old]
        assert store.clear_stale() == 1
        assert list(store.staging_root.iterdir()) == [new]

    def test_a_partial_download_in_use_is_not_stale(self, store):
        with partials.partial(store.staging_root, HELLO) as kept:
            os.write(kept, b"he")
            os.utime(kept, (time.time() - 86_401,) * 2)

            assert store.clear_stale() == 0

    def test_what_is_spoiled_on_the_way_back_is_never_returned(self, store, proxy, tmp_path):
        digest = store.put_bytes(b"hello")
        proxy.spoil = lambda body: body.replace(b"hello", b"hellO")
        proxy.plan = lambda request: "spoiled"

        for read in (store.read_bytes, store.verify, store.open, lambda one: store.copy_to(one, tmp_path / "out")):
            with pytest.raises(CorruptError):
                read(digest)
        assert not (tmp_path / "out").exists()


class TestListing:
    def test_a_listing_goes_over_pages_and_on_after_a_fault(self, store, proxy, monkeypatch):
        monkeypatch.setattr("registry.store.bucket.objects._PAGE", 2)
        digests = sorted(store.put_bytes(bytes([number])) for number in range(5))
        proxy.clear()
        proxy.plan = lambda request: "cut" if request.number == 1 else None

        assert [blob.digest for blob in store.list()] == digests

    def test_what_is_no_blob_is_a_stray(self, store):
        store.put_bytes(b"hello")
        obstore.put(store.bucket.client, "sha256/ff/" + HELLO[7:], b"")
        obstore.put(store.bucket.client, "notes.txt", b"")
        obstore.put(store.bucket.client, "registry.json", b"{}")

        assert [blob.digest for blob in store.list()] == [HELLO]
        assert [stray.rpartition(": ")[2] for stray in store.strays()] == ["notes.txt", "sha256/ff/" + HELLO[7:]]


class TestRefusals:
    def test_a_missing_bucket_is_named(self, s3_url, s3_server, tmp_path):
        store = ObjectStore(Bucket(parse_store_url(store_url(s3_server, "no-such-bucket"))), tmp_path / "staging")

        for attempt in (lambda: store.put_bytes(b"hello"), lambda: store.read_bytes(HELLO), store.require):
            with pytest.raises(UnavailableError, match="there is no bucket 'no-such-bucket'"):
                attempt()

    def test_a_missing_blob_is_not_a_missing_bucket(self, store):
        for read in (store.read_bytes, store.size, store.verify, store.open):
            with pytest.raises(MissingBlobError, match="no object"):
                read(HELLO)

    def test_a_server_that_is_away_is_named(self, s3_url, tmp_path, monkeypatch):
        monkeypatch.setattr(buckets, "TRIES", 1)
        store = ObjectStore(Bucket(parse_store_url(store_url("http://127.0.0.1:9", "bucket"))), tmp_path / "staging")

        with pytest.raises(UnavailableError, match=r"s3://bucket/team/registry at http://127.0.0.1:9: nothing answers"):
            store.read_bytes(HELLO)

    @pytest.mark.parametrize(
        ("fault", "words"),
        [
            ("forbidden", r"not permitted \(403 AccessDenied\)"),
            ("skewed", "this machine's clock and the store's are too far apart"),
            ("500", "the store answered 500 InternalError"),
            ("503", "the store answered 503 SlowDown"),
            ("409", "the store answered 409 ConditionalRequestConflict"),
            ("412", "the store answered 412 PreconditionFailed"),
        ],
    )
    def test_a_lasting_refusal_is_told_in_our_words(self, store, proxy, fault, words):
        proxy.plan = lambda request: fault if request.method == "PUT" else None

        with pytest.raises(UnavailableError, match=words) as caught:
            store.put_bytes(b"hello")

        assert (caught.value.__cause__, caught.value.__suppress_context__) == (None, True)
        assert caught.value.hint

    def test_tries_are_bounded(self, store, proxy):
        proxy.plan = lambda request: "503"

        with pytest.raises(UnavailableError):
            store.size(HELLO)

        assert len(proxy.requests) == 3

    def test_what_cannot_go_better_is_asked_once(self, store, proxy):
        proxy.plan = lambda request: "forbidden"

        with pytest.raises(UnavailableError):
            store.read_bytes(HELLO)

        assert len(proxy.requests) == 1

    def test_a_destination_that_exists_costs_no_download(self, store, proxy, tmp_path):
        digest = store.put_bytes(b"hello")
        (tmp_path / "out").write_bytes(b"mine")
        proxy.clear()

        with pytest.raises(ConflictError):
            store.copy_to(digest, tmp_path / "out")
        assert proxy.requests == []


def test_a_bucket_of_another_prefix_is_another_store(s3_url, s3_server, tmp_path):
    bucket = make_bucket(s3_server)
    first, second = (
        ObjectStore(Bucket(parse_store_url(store_url(s3_server, bucket, prefix))), tmp_path / "staging")
        for prefix in ("a", "ab")
    )
    first.put_bytes(b"hello")

    assert [blob.digest for blob in first.list()] == [HELLO]
    assert list(second.list()) == []


@pytest.mark.parametrize("text", ["gs://bucket/team?endpoint=http://127.0.0.1:9", "az://container/team?account=ours"])
def test_other_clouds_go_through_the_same_code(text, tmp_path, monkeypatch):
    """Their servers are not there: what answers is the same refusal, and no secret is in it."""
    monkeypatch.setattr(buckets, "TRIES", 1)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "Q0FOQVJZ")
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    store = ObjectStore(Bucket(parse_store_url(text)), tmp_path / "staging")

    with pytest.raises(UnavailableError, match=r"^(gs|az)://") as caught:
        store.read_bytes(HELLO)
    assert "Q0FOQVJZ" not in str(caught.value)
