"""The parts of an upload and their sums: what is sent, and what it is compared with."""

import hashlib
import os
from threading import Event

import pytest

from registry.errors import CorruptError, UnavailableError
from registry.files.scratch import scratch_folder
from registry.files.staging import StagedFile, Staging
from registry.store.bucket import bucket as buckets
from registry.store.bucket import uploads
from registry.store.bucket.bucket import Bucket
from registry.store.bucket.checkedparts import Stopped
from registry.store.bucket.objects import ObjectStore
from registry.store.storeurl import parse_store_url

HELLO = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # printf hello | sha256sum
MIB = 1 << 20
PART = 8 * MIB


@pytest.fixture
def stage(tmp_path):
    """Stages some bytes, as a push does."""
    with scratch_folder(tmp_path / "staging") as folder:
        yield lambda content: Staging(folder, None).add(content, name="file")


@pytest.fixture
def store(s3_url, s3_server, proxy, tmp_path, monkeypatch):
    monkeypatch.setattr(buckets, "TRIES", 2)
    monkeypatch.setattr(buckets, "_FIRST_WAIT", 0.01)
    return ObjectStore(Bucket(parse_store_url(s3_url.replace(s3_server, proxy.address))), tmp_path / "staging")


def md5s(content):
    return [hashlib.md5(content[start : start + PART]).digest() for start in range(0, len(content), PART)]


def sent(file, given=None):
    """The parts that were given away, also where an error ended that."""
    given = [] if given is None else given
    with uploads._Parts(file, Event()) as parts:
        given.extend(parts)
    return given


def overwrite(file, content):
    file.path.chmod(0o600)
    file.path.write_bytes(content)


class TestParts:
    def test_they_are_of_eight_mebibytes_and_a_rest(self, stage):
        content = os.urandom(17 * MIB)

        parts = sent(stage(content))

        assert [len(part) for part in parts] == [PART, PART, MIB]
        assert b"".join(parts) == content

    @pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 2 * PART])
    def test_none_is_empty_but_that_of_an_empty_file(self, stage, size):
        lengths = [len(part) for part in sent(stage(bytes(size)))]

        assert sum(lengths) == size
        assert lengths == [0] or all(lengths)

    def test_a_file_of_the_largest_size_fits_into_ten_thousand(self, tmp_path):
        assert uploads._Parts(StagedFile(tmp_path / "file", HELLO, 5 << 40), Event()).size * 10_000 >= 5 << 40

    @pytest.mark.parametrize("changed", [0, PART, 17 * MIB - 1])
    def test_the_last_is_kept_back_where_any_byte_changed(self, stage, changed):
        content = bytearray(os.urandom(17 * MIB))
        file = stage(bytes(content))
        content[changed] ^= 1
        overwrite(file, content)
        given = []

        with pytest.raises(CorruptError) as caught:
            sent(file, given)

        assert caught.value.expected == file.digest
        assert [len(part) for part in given] == [PART, PART]

    @pytest.mark.parametrize("length", [0, PART, 17 * MIB - 1, 17 * MIB + 1])
    def test_a_file_of_another_length_is_refused(self, stage, length):
        file = stage(bytes(17 * MIB))
        overwrite(file, bytes(length))

        with pytest.raises(CorruptError):
            sent(file)

    def test_a_file_that_is_gone_is_told_as_a_place_out_of_reach(self, tmp_path):
        with pytest.raises(UnavailableError, match="No such file"):
            sent(StagedFile(tmp_path / "gone", HELLO, 5))


class TestChecksum:
    @pytest.mark.parametrize("parts", [2, 7])
    def test_it_is_the_one_s3_documents(self, stage, parts):
        """MD5 of the parts' MD5s and their number."""
        content = os.urandom((parts - 1) * PART + MIB)
        with uploads._Parts(stage(content), Event()) as found:
            list(found)

            assert found.checksum() == f"{hashlib.md5(b''.join(md5s(content))).hexdigest()}-{parts}"

    def test_of_one_part_it_is_that_parts_md5(self, stage):
        with uploads._Parts(stage(b"hello"), Event()) as found:  # printf hello | md5sum
            list(found)

            assert found.checksum() == "5d41402abc4b2a76b9719d911017c592"

    @pytest.mark.parametrize(
        ("e_tag", "told"),
        [
            ('"5d41402abc4b2a76b9719d911017c592"', True),
            ("5d41402abc4b2a76b9719d911017c592", True),
            ('"5d41402abc4b2a76b9719d911017c593"', False),
            (None, False),
        ],
    )
    def test_an_etag_tells_of_its_own_bytes_alone(self, e_tag, told):
        assert uploads.tells(e_tag, b"hello") is told


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


def test_once_it_is_stopped_no_more_is_given_away(stage):
    """obstore ends an upload without an object where its parts end in an error."""
    stop = Event()
    with uploads._Parts(stage(bytes(17 * MIB)), stop) as parts:
        given = iter(parts)
        next(given)
        stop.set()

        with pytest.raises(Stopped):
            next(given)
