"""The parts of an upload and their sums: what is sent, what it is compared with, and who waits for whom."""

import hashlib
import os
import threading
import time

import pytest

from registry import bucket as buckets
from registry import uploads
from registry.bucket import Bucket
from registry.errors import CorruptError, UnavailableError
from registry.objects import ObjectStore
from registry.scratch import scratch_folder
from registry.staging import StagedFile, Staging
from registry.storeurl import parse_store_url
from tests.faultproxy import proxying

HELLO = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # printf hello | sha256sum
MIB = 1 << 20
PART = 8 * MIB


@pytest.fixture
def stage(tmp_path):
    """Stages some bytes, as a push does."""
    with scratch_folder(tmp_path / "staging") as folder:
        yield lambda content: Staging(folder, None).add(content, name="file")


@pytest.fixture
def proxy(s3_server):
    with proxying(s3_server) as running:
        yield running


@pytest.fixture
def store(s3_url, s3_server, proxy, tmp_path, monkeypatch):
    monkeypatch.setattr(buckets, "TRIES", 2)
    monkeypatch.setattr(buckets, "_FIRST_WAIT", 0.01)
    return ObjectStore(Bucket(parse_store_url(s3_url.replace(s3_server, proxy.address))), tmp_path / "staging")


def md5s(content):
    return [hashlib.md5(content[start : start + PART]).digest() for start in range(0, len(content), PART)]


def overwrite(file, content):
    file.path.chmod(0o600)
    file.path.write_bytes(content)


class TestParts:
    def test_they_are_of_eight_mebibytes_and_a_rest(self, stage):
        content = os.urandom(17 * MIB)

        parts = list(uploads._parts(stage(content)))

        assert [len(part) for part in parts] == [PART, PART, MIB]
        assert b"".join(parts) == content

    @pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 2 * PART])
    def test_none_is_empty_but_that_of_an_empty_file(self, stage, size):
        lengths = [len(part) for part in uploads._parts(stage(bytes(size)))]

        assert sum(lengths) == size
        assert lengths == [0] or all(lengths)

    def test_a_file_of_the_largest_size_fits_into_ten_thousand(self):
        assert uploads.part_size(5 << 40) * 10_000 >= 5 << 40

    @pytest.mark.parametrize("changed", [0, PART, 17 * MIB - 1])
    def test_the_last_is_kept_back_where_any_byte_changed(self, stage, changed):
        content = bytearray(os.urandom(17 * MIB))
        file = stage(bytes(content))
        content[changed] ^= 1
        overwrite(file, content)
        given = []

        with pytest.raises(CorruptError) as caught:
            for part in uploads._parts(file):
                given.append(len(part))  # noqa: PERF401 (what came before the error)

        assert caught.value.expected == file.digest
        assert given == [PART, PART]

    @pytest.mark.parametrize("length", [0, PART, 17 * MIB - 1, 17 * MIB + 1])
    def test_a_file_of_another_length_is_refused(self, stage, length):
        file = stage(bytes(17 * MIB))
        overwrite(file, bytes(length))

        with pytest.raises(CorruptError):
            list(uploads._parts(file))

    def test_a_file_that_is_gone_is_told_as_a_place_out_of_reach(self, tmp_path):
        with pytest.raises(UnavailableError, match="No such file"):
            list(uploads._parts(StagedFile(tmp_path / "gone", HELLO, 5)))


class TestSums:
    @pytest.mark.parametrize("parts", [2, 7])
    def test_they_are_the_md5_of_each_part_in_order(self, stage, parts):
        content = os.urandom((parts - 1) * PART + MIB)
        with uploads._Sums(stage(content)) as sums:
            assert sums.rest() == md5s(content)

    def test_those_made_early_are_not_made_again(self, stage, monkeypatch):
        content, made = os.urandom(3 * PART), []
        md5 = uploads._md5
        monkeypatch.setattr(uploads, "_md5", lambda block: made.append(len(block)) or md5(block))
        with uploads._Sums(stage(content)) as sums:
            until = time.monotonic() + 30
            while len(made) < 3 and time.monotonic() < until:
                time.sleep(0.01)

            assert sums.rest() == md5s(content)
        assert made == [PART] * 3

    def test_the_checksum_is_the_one_s3_documents(self, stage):
        """MD5 of the parts' MD5s and their number."""
        content = os.urandom(17 * MIB)
        with uploads._Sums(file := stage(content)) as sums:
            found = uploads._checksum(file, sums.rest())

        assert found == f"{hashlib.md5(b''.join(md5s(content))).hexdigest()}-3"

    def test_of_a_file_that_shrank_they_are_others(self, stage):
        content = os.urandom(17 * MIB)
        file = stage(content)
        overwrite(file, content[:PART])

        with uploads._Sums(file) as sums:
            assert sums.rest() != md5s(content)

    def test_an_upload_that_fails_leaves_none_at_work(self, stage):
        before = threading.active_count()

        with pytest.raises(ZeroDivisionError), uploads._Sums(stage(bytes(80 * MIB))):
            raise ZeroDivisionError

        assert threading.active_count() == before

    def test_they_step_back_and_nothing_else_does(self):
        found = []
        before = os.getpriority(os.PRIO_PROCESS, 0)
        thread = threading.Thread(
            target=lambda: found.append((uploads._step_back(), os.getpriority(os.PRIO_PROCESS, 0)))
        )
        thread.start()
        thread.join()

        assert found == [(None, max(before, 10))]
        assert os.getpriority(os.PRIO_PROCESS, 0) == before


class TestProof:
    def test_a_large_file_is_proven_by_the_stores_checksum_alone(self, store, proxy):
        """Three parts, and nothing is read back."""
        with store.staging() as staging:
            store.place(staging.add(os.urandom(17 * MIB), name="file"))

        methods = [request.method for request in proxy.requests]
        assert (methods.count("PUT"), methods.count("GET")) == (3, 0)

    def test_parts_spoiled_on_the_way_are_found_before_a_row_can_name_them(self, store, proxy):
        content = b"\0" * PART + b"hello" + b"\0" * MIB
        proxy.spoil = lambda body: body.replace(b"hello", b"hellO")
        proxy.plan = lambda request: "spoiled-request" if request.method == "PUT" else None

        with store.staging() as staging:
            file = staging.add(content, name="file")
            with pytest.raises(CorruptError) as caught:
                store.place(file)

        assert caught.value.expected == file.digest

    def test_a_file_that_changes_once_it_was_sent_is_read_back(self, store, proxy, monkeypatch):
        """The sums no longer prove anything; the object was sent from the right bytes, and is found right."""
        content = os.urandom(17 * MIB)
        rest = uploads._Sums.rest

        def late(sums):
            overwrite(sums._file, content[:PART])
            sums._left, sums._early = iter(range(3)), sums._idle.submit(list)
            return rest(sums)

        monkeypatch.setattr(uploads._Sums, "rest", late)
        with store.staging() as staging:
            file = staging.add(content, name="file")
            store.place(file)

        assert "GET" in [request.method for request in proxy.requests]
        assert store.read_bytes(file.digest) == content
