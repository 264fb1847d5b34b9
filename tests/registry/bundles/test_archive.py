"""The one shape of tar that bundles have: what is written Python's tarfile reads, and any other byte is refused."""

import io
import tarfile

import pytest

from registry.bundles.archive import END, expect_end, first_member, header, next_member, padding
from registry.errors import CorruptError, UsageError

NAME = "blobs/sha256/" + "a" * 64
# sha256 of b"hello" and of b"jello", from `printf hello | sha256sum`
HELLO = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
JELLO = "sha256:187c9bceeb919e1b3e6d20fa50ecabf7d9d50b5343e8f9a3d912abb13929102e"
MEMBER = header(NAME, 5) + b"hello" + bytes(507)


class Dripping(io.BytesIO):
    """Gives at most seven bytes at a time, as a pipe may."""

    def read(self, size=-1):
        return super().read(min(size, 7) if size >= 0 else 7)


def taken(content, *, size=5, digest=HELLO, source=io.BytesIO):
    kept = io.BytesIO()
    next_member(source(content), NAME, size, digest, kept.write)
    return kept.getvalue()


@pytest.mark.parametrize("size", [0, 1, 512, 8**11 - 1, 8**11, 2**40])
def test_a_header_is_one_that_tarfile_reads(size):
    """Sizes from 8 GiB do not fit twelve octal digits."""
    info = tarfile.TarInfo.frombuf(header(NAME, size), "utf-8", "strict")

    assert (info.name, info.size, info.type, info.mode) == (NAME, size, tarfile.REGTYPE, 0o644)
    assert (info.uid, info.gid, info.mtime, info.linkname, info.uname, info.gname) == (0, 0, 0, "", "", "")


def test_a_header_is_a_block_and_padding_fills_the_last():
    assert len(header(NAME, 8**11)) == 512
    assert [len(padding(size)) for size in (0, 1, 511, 512, 513)] == [0, 511, 1, 0, 511]


def test_a_member_is_taken_however_it_arrives():
    assert taken(MEMBER) == taken(MEMBER, source=Dripping) == b"hello"


def test_an_empty_member_has_no_padding():
    # sha256 of nothing
    empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

    assert taken(header(NAME, 0), size=0, digest=empty) == b""


def test_wrong_bytes_name_the_member_and_both_digests():
    with pytest.raises(CorruptError) as refusal:
        taken(MEMBER.replace(b"hello", b"jello"))

    assert (refusal.value.expected, NAME in str(refusal.value)) == (HELLO, True)
    assert refusal.value.actual == JELLO


@pytest.mark.parametrize("place", range(0, 512, 3))
def test_no_byte_of_a_header_may_differ(place):
    wrong = bytearray(MEMBER)
    wrong[place] ^= 1

    with pytest.raises(UsageError, match="not a bundle"):
        taken(bytes(wrong))


@pytest.mark.parametrize("left", [0, 1, 511, 512, 514, 516, 517, 1023])
def test_a_member_that_is_cut_is_refused_with_what_was_expected(left):
    with pytest.raises(UsageError, match=r"cut short: expected \d+ bytes of .*, found \d+"):
        taken(MEMBER[:left])


def test_bytes_hidden_in_the_padding_are_refused():
    with pytest.raises(UsageError, match=r"padding .* is not zeros"):
        taken(MEMBER[:-1] + b"x")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.DIRTYPE, "a folder"),
        (tarfile.FIFOTYPE, "a pipe"),
        (tarfile.GNUTYPE_SPARSE, "a sparse file"),
        (tarfile.GNUTYPE_LONGNAME, "a long name"),
        (tarfile.XHDTYPE, "an extended header"),
        (tarfile.XGLTYPE, "a global header"),
        (tarfile.CONTTYPE, "a file with another header"),
    ],
)
def test_what_is_no_plain_file_is_refused_by_its_kind(kind, said):
    info = tarfile.TarInfo("../../etc/cron.d/x")
    info.type = kind

    with pytest.raises(UsageError, match=rf"found {said}: '\.\./\.\./etc/cron\.d/x"):
        taken(info.tobuf(tarfile.USTAR_FORMAT))


def test_a_name_that_a_terminal_would_act_on_is_escaped():
    info = tarfile.TarInfo("x\x1b[2J\udcff")

    with pytest.raises(UsageError) as refusal:
        taken(info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape"))
    assert str(refusal.value).isprintable()


def test_the_end_where_a_member_should_be_is_told():
    with pytest.raises(UsageError, match="found the end of the archive"):
        taken(END)


def test_after_the_end_nothing_may_follow():
    expect_end(io.BytesIO(END))
    for content, said in (
        (END + b"\0", "bytes follow"),
        (MEMBER + END, "more members"),
        (END[:-1], "cut short"),
        (bytes(512), "cut short"),
    ):
        with pytest.raises(UsageError, match=said):
            expect_end(io.BytesIO(content))


class TestFirstMember:
    """Its size is only in its header."""

    def test_it_is_read_whole(self):
        content = header("x", 3) + b"abc" + bytes(509)

        assert first_member(io.BytesIO(content), "x", 3) == first_member(Dripping(content), "x", 3) == b"abc"

    @pytest.mark.parametrize("size", [4, 8**11 - 1])
    def test_one_above_the_bound_is_refused_before_it_is_read(self, size):
        source = io.BytesIO(header("x", size) + bytes(4096))

        with pytest.raises(UsageError, match=f"has {size} bytes, at most 3 are read"):
            first_member(source, "x", 3)
        assert source.tell() == 512

    @pytest.mark.parametrize(
        "field", [b"-0000000003\0", b" 0000000003\0", b"0x000000003\0", b"00000000003 ", bytes(12)]
    )
    def test_a_size_in_another_notation_is_refused(self, field):
        """Python's int() would take a sign, spaces and underscores."""
        found = bytearray(header("x", 3))
        found[124:136] = field

        with pytest.raises(UsageError, match="expected x first"):
            first_member(io.BytesIO(bytes(found) + b"abc" + bytes(509)), "x", 3)

    def test_another_name_is_refused(self):
        with pytest.raises(UsageError, match="expected x first, found a file with another header: 'y'"):
            first_member(io.BytesIO(header("y", 0)), "x", 3)
