"""Bad input through the real command line: the documented exit code, one line that names the thing, nothing changed."""

import gc
import hashlib
import json
import os
import socket
import sqlite3
import stat
import struct
from contextlib import contextmanager
from pathlib import Path

import pytest

from registry import database
from registry.cli.failure import run
from registry.database import Database
from tests.registries import make_adapter
from tests.registry.places import mounted, needs, remount

# Names and paths that have broken other programs: traversal, drives, encodings, devices, look-alikes, twins.
PAYLOADS = [
    "../x", "..\\x", "/etc/passwd", "C:\\x", "D:x", "\\\\h\\s", "a/../../b", "./a", "a//b", "a/./b", "%2e%2e%2f",
    "%252e%252e%252f", "..;/", "..%00/", "a\0b", "\u2025/", "\uff0e\uff0e/", "~root", "$HOME", "-rf", "--help", "CON",
    "nul.txt", "aux.", "name.", "name ", "\u202egnp", "e\u0301", "\u00e9", "n" * 256, "p/" * 2048, ".git", ".lock",
    "sha256:../..", "sha256:" + "a" * 63, "sha256:" + "a" * 65, "SHA256:" + "A" * 64, "md5:" + "a" * 32, "",
    "\U0001f600", "\u05d0\u05d1", "\u2028", "\x1b[31mred", "line\nline", "\udcff",
]  # fmt: skip
LIKE_NUMBERS = ["0", "v1", "latest", "99999999999999999999", "deadbeefdeadbeef"]


class Shell:
    """The command line in this process, in a folder and home of its own."""

    def __init__(self, capfd, home):
        self._capfd, self.home = capfd, home

    def __call__(self, *arguments):
        code = run(list(arguments))
        captured = self._capfd.readouterr()
        return code, captured.out, captured.err

    def say(self, *arguments):
        code, out, err = self(*arguments)
        assert code == 0, err
        return out

    def refused(self, *arguments, code, named=""):
        """Exactly one error line, which names the thing and holds nothing that a terminal acts on; no other output."""
        found, out, err = self(*arguments)
        case = (arguments, found, out, err)
        lines = err.splitlines()
        assert found == code, case
        assert out == "", case
        assert [line.split(": ")[0] for line in lines] in (["error"], ["error", "hint"]), case
        assert named in lines[0], case
        assert all(character.isprintable() for line in lines for character in line), case
        return lines[0]

    @contextmanager
    def nothing_changed(self):
        before = snapshot(self.home)
        yield
        assert snapshot(self.home) == before


def snapshot(folder):
    """Every path below with its mode and, for a file, its bytes' hash; a link with its target."""
    found = {}
    for path in Path(folder).rglob("*"):
        mode, content = path.lstat().st_mode, None
        if stat.S_ISREG(mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISLNK(mode):
            content = path.readlink()
        found[str(path)] = (mode, content)
    return found


@pytest.fixture
def bare(capfd, monkeypatch, tmp_path):
    """A shell without a registry, beside the adapter ./one."""
    for variable in ("ADAPTERS_FORMAT", "ADAPTERS_DATABASE_URL", "ADAPTERS_STORE_URL", "ADAPTERS_NAMESPACE"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("ADAPTERS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ADAPTERS_ACTOR", "ann")
    monkeypatch.chdir(tmp_path / "work")
    make_adapter(tmp_path / "work" / "one", 1)
    make_adapter(tmp_path / "work" / "two", 2)
    return Shell(capfd, tmp_path / "home")


@pytest.fixture
def shell(bare, sqlite_template):
    """A shell with a registry that holds ./one as team/sql@1, alias prod."""
    bare.home.mkdir()
    (bare.home / "catalog.db").write_bytes(sqlite_template.read_bytes())
    bare.say("push", "./one", "team/sql", "--alias", "prod")
    return bare


@pytest.fixture
def work(tmp_path):
    return tmp_path / "work"


# Names


def test_a_name_that_is_none_is_refused(shell):
    with shell.nothing_changed():
        for text in PAYLOADS:
            shell.refused("push", "./one", "--", text, code=2, named="name")
            shell.refused("push", "./one", "--", f"team/{text}", code=2, named="name")


def test_an_alias_that_is_none_is_refused_before_anything_is_pushed(shell):
    with shell.nothing_changed():
        for text in PAYLOADS + LIKE_NUMBERS:
            shell.refused("push", "./two", "team/sql", f"--alias={text}", code=2, named="alias")
            shell.refused("alias", "set", "--", "team/sql", text, code=2, named="alias")


def test_a_reference_that_names_nothing_is_refused(shell):
    """Malformed is 2; well-formed and unknown is 4."""
    # `:` may stand for `@`, upper case is folded, and 63 digits are the start of a digest
    known = {"SHA256:" + "A" * 64, "sha256:" + "a" * 63}
    with shell.nothing_changed():
        for text in PAYLOADS:
            shell.refused("show", "--", text, code=4 if text == "D:x" else 2)
            if text:
                shell.refused("pull", "--", f"team/sql@{text}", code=4 if text in known else 2)
        for text in LIKE_NUMBERS:
            shell.refused("show", text, code=4, named=f"local/{text}")
        shell.refused("pull", "team/sql@0", code=2, named="team/sql@0")
        shell.refused("pull", "team/sql@2", code=4, named="team/sql@2")
        shell.refused("pull", "team/sql@deadbeefdeadbeef", code=2, named="deadbeefdeadbeef")
        shell.refused("merge", "team/sql", "team/none", "--combination", "svd", "--into", "t/m", code=4, named="none")
        shell.refused("merge", "team/sql", "team/sql", "--combination", "svd", "--into", "../x", code=2, named="'..'")
        shell.refused("base", "show", "nobody", code=4, named="nobody")
        shell.refused("push", "./two", "t/two", "--parent", "team/none", code=4, named="team/none")


def test_an_include_that_leaves_the_folder_is_refused(shell, work):
    (work / "secret").write_text("secret")
    with shell.nothing_changed():
        for text in [*PAYLOADS, "../secret", "../*", str(work / "secret"), "**/../../secret", "[", "one/../../secret"]:
            shell.refused("push", "./two", "t/two", f"--include={text}", code=2, named="--include")


def test_a_tag_key_that_is_none_is_refused(shell):
    fine = {"C:\\x"[:1], "a/../../b", "a//b", "a/./b", "D:x", "CON", "nul.txt", "aux.", "name.", "sha256:../.."}
    fine |= {text for text in PAYLOADS if "56:" in text or text.startswith("md5:")}
    with shell.nothing_changed():
        for text in set(PAYLOADS) - fine:
            shell.refused("push", "./two", "t/two", f"--tag={text}=x", code=2)
            shell.refused("tag", "set", "--", "team/sql", f"{text}=x", code=2)
            shell.refused("push", "./two", "t/two", f"--metric={text}=1", code=2)
        for number in ("nan", "inf", "1e999", "one", ""):
            shell.refused("push", "./two", "t/two", f"--metric=acc={number}", code=2, named="acc")


def test_a_tag_value_comes_back_as_it_was_or_is_refused(shell):
    """Any text without control characters, at most 512 long; printed with nothing that a terminal acts on."""
    accepted = {}
    for index, text in enumerate(PAYLOADS):
        code, _, err = shell("tag", "set", "team/sql", f"key{index}={text}")
        if code == 0:
            accepted[f"key{index}"] = text
        else:
            assert (code, err.splitlines()[0].startswith(f"error: tag key{index}: ")) == (2, True)
            assert len(text) > 512 or set(text) & set("\0\n\x1b\u2028\udcff")
    assert len(accepted) > 30
    assert json.loads(shell.say("show", "team/sql", "--format", "json"))["tags"] == accepted
    assert all(character.isprintable() for character in shell.say("show", "team/sql").replace("\n", ""))


def test_a_pull_goes_to_a_new_folder_or_nowhere(shell, work):
    (work / "taken").mkdir()
    (work / "taken" / "mine").write_text("mine")
    (work / "file").write_text("mine")
    (work / "link").symlink_to(work / "empty")
    (work / "empty").mkdir()
    before = snapshot(work)
    places = {"./taken": 5, "./file": 5, "./link": 5, ".": 5, "/": 5, "/dev/null": 5, "./file/x": 7, "/proc/x": 7}
    places |= {"n" * 256: 7, "p/" * 2048 + "x": 7}
    with shell.nothing_changed():
        for place, code in places.items():
            shell.refused("pull", "team/sql", "--to", place, code=code)
    assert snapshot(work) == before


def test_a_pull_to_an_odd_name_is_printed_without_harm(shell, work):
    for text in ("\x1b[31mred", "line\nline", "\u202egnp", "-rf", "$HOME"):
        out = shell.say("pull", "team/sql", f"--to=./{text}")
        assert all(character.isprintable() for character in out.removesuffix("\n"))
        assert (work / text / "adapter_config.json").is_file()


# Folders that are no adapters


def _bound_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(path.relative_to(Path.cwd())))  # a socket's path has 108 bytes at most


def _device(path):
    try:
        os.mknod(path, 0o644 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero: reading it never ends
    except PermissionError as error:
        needs(f"making a device is not permitted here: {error}", available=False, promised=False)


SPECIAL = {
    "link to a file": lambda path: path.symlink_to("/etc/passwd"),
    "link to a folder": lambda path: path.symlink_to("/etc"),
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "pipe": os.mkfifo,
    "socket": _bound_socket,
    "device": _device,
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "README.md", "notes.txt"])
def test_what_is_no_regular_file_is_neither_taken_nor_waited_for(shell, work, kind, name):
    (work / "two" / name).unlink(missing_ok=True)
    SPECIAL[kind](work / "two" / name)
    with shell.nothing_changed():
        shell.refused("push", "./two", "t/two", "--include=notes.tx[t]" if name == "notes.txt" else "--tag=a=b",
                      code=2, named=name)  # fmt: skip


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", SPECIAL)
def test_a_path_that_is_no_folder_is_refused(shell, work, kind):
    if kind == "link to a folder":
        pytest.skip("the folder itself may be a link")
    SPECIAL[kind](work / "odd")
    with shell.nothing_changed():
        for verb in (["push", "./odd", "t/x"], ["check", "./odd"]):
            shell.refused(*verb, code=2, named="odd")
        shell.refused("base", "add", "./odd", code=2)
        shell.refused("which", "./odd", code=2, named="odd")


def test_names_that_differ_only_in_case_or_encoding_are_refused(shell, work):
    for one, other in (("Readme.txt", "README.TXT"), ("e\u0301.txt", "\u00e9.txt")):
        (work / "two" / one).write_text("1")
        (work / "two" / other).write_text("2")
        with shell.nothing_changed():
            shell.refused("push", "./two", "t/two", "--include=*.[tT]*", code=2, named="two")
        (work / "two" / one).unlink()
        (work / "two" / other).unlink()


def _header(text, *, length=None, data=b""):
    content = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(content) if length is None else length) + content + data


WEIGHTS = {
    "empty": b"",
    "seven bytes": b"1234567",
    "no header": _header(""),
    "longest length": _header("{}", length=2**64 - 1),
    "longer than the file": _header("{}", length=3),
    "over the limit": _header("{}", length=100_000_001),
    "no object": _header("["),
    "not text": _header(b"\xff\xfe{}"),
    "deep": _header("[" * 100_000),
    "range outside": _header('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', data=b"1234"),
    "range lies": _header('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', data=b"1234"),
    "shape overflows": _header(
        '{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}', data=b"1234"
    ),
    "negative shape": _header('{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', data=b"1234"),
    "unknown dtype": _header('{"a":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}}', data=b"1234"),
    "bytes left": _header('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', data=b"12345"),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_whose_header_lies_are_refused(shell, work, kind):
    weights = work / "two" / "adapter_model.safetensors"
    weights.write_bytes(WEIGHTS[kind])
    with shell.nothing_changed():
        for verb in (["push", "./two", "t/two"], ["check", "./two"], ["push", "./two", "t/two", "--format", "json"]):
            shell.refused(*verb, code=2, named="adapter_model.safetensors")


def test_weights_cut_short_anywhere_are_refused(shell, work):
    weights = work / "two" / "adapter_model.safetensors"
    whole = weights.read_bytes()
    with shell.nothing_changed():
        for length in (*range(1, len(whole), len(whole) // 12), len(whole) - 1):
            weights.write_bytes(whole[:length])
            shell.refused("push", "./two", "t/two", code=2, named="adapter_model.safetensors")


CONFIGS = {
    "empty": b"",
    "no json": b"peft_type: LORA",
    "no object": b"[]",
    "a number": b"1",
    "deep": b'{"a":' * 100_000,
    "deep and closed": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "no utf-8": b'{"peft_type": "\xff"}',
    "huge": b'{"a": "' + b"x" * 70_000_000 + b'"}',
    "huge number": b'{"peft_type": "LORA", "r": ' + b"9" * 10_000 + b"}",
    "wrong kinds": b'{"peft_type": ["LORA"], "r": "eight", "target_modules": 7}',
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_that_is_none_is_refused(shell, work, kind):
    (work / "two" / "adapter_config.json").write_bytes(CONFIGS[kind])
    with shell.nothing_changed():
        shell.refused("push", "./two", "t/two", code=2, named="adapter_config.json")
        shell.refused("check", "./two", code=2, named="adapter_config.json")


def test_a_base_that_is_not_there(shell):
    """As a path it is a mistake; as a name it is unknown, which is a warning and never a refusal."""
    with shell.nothing_changed():
        shell.refused("push", "./two", "t/two", "--base", "./nowhere", code=2, named="nowhere")
        shell.refused("base", "add", "./nowhere", code=2, named="nowhere")
    document = json.loads(shell.say("push", "./two", "t/two", "--base", "nobody/knows", "--format", "json"))
    assert [item["rule"] for item in document["findings"] if item["severity"] == "warning"] == ["base-unknown"]


# Databases


VERBS = [["list"], ["show", "team/sql"], ["push", "./two", "t/two"], ["pull", "team/sql"], ["gc"], ["doctor"]]


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setitem(Database.__init__.__kwdefaults__, "busy_timeout_s", 0.05)
    monkeypatch.setattr(database, "_TRIES", 2)


def test_a_locked_database_is_said_to_be_locked(shell, impatient):
    """Another program holds SQLite's own lock."""
    holder = sqlite3.connect(shell.home / "catalog.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with shell.nothing_changed():
            for verb in VERBS:
                shell.refused(*verb, code=7, named="locked")
    finally:
        holder.close()
    shell.say("push", "./two", "t/two")


def test_a_pinned_version_is_served_while_the_database_is_locked(shell, impatient):
    """P8: what was pulled before is found by its digest."""
    digest = json.loads(shell.say("pull", "team/sql", "--format", "json"))["digest"]
    holder = sqlite3.connect(shell.home / "catalog.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    out = shell.say("pull", f"team/sql@{digest}", "--format", "quiet")
    holder.close()
    assert digest.removeprefix("sha256:") in out


def _sql(*statements):
    def change(file):
        connection = sqlite3.connect(file)
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.close()

    return change


def _replaced(content):
    return lambda file: file.write_bytes(content)


def _another_program(file):
    file.unlink()
    _sql("CREATE TABLE theirs (x)", "PRAGMA application_id = 7")(file)


def _another_programs_tables(file):
    file.unlink()
    _sql("CREATE TABLE theirs (x)")(file)


def _cut_short(file):
    file.write_bytes(file.read_bytes()[:-9000])


def _folder(file):
    file.unlink()
    file.mkdir()


DATABASES = {
    "newer": _sql("UPDATE catalog_meta SET value = '99' WHERE key IN ('schema', 'oldest_client')"),
    "another program's": _another_program,
    "without our mark": _another_programs_tables,
    "text": _replaced(b"this is no database, only text\n" * 100),
    "zeros": _replaced(bytes(8192)),
    "cut short": _cut_short,
    "a folder": _folder,
}


@pytest.mark.parametrize("kind", DATABASES)
def test_a_database_that_is_not_ours_to_use_is_left_alone(shell, kind):
    DATABASES[kind](shell.home / "catalog.db")
    with shell.nothing_changed():
        for verb in VERBS:
            shell.refused(*verb, code=7, named="catalog.db")


def test_a_server_that_cannot_be_reached_is_named_without_its_password(shell):
    urls = ["postgresql://ann:s3cret@127.0.0.1:1/none", "postgresql://127.0.0.1:1/none?user=ann&password=s3cret"]
    with shell.nothing_changed():
        for url in urls:
            for verb in VERBS:
                assert "s3cret" not in shell.refused(*verb, "--database-url", url, code=7, named="127.0.0.1")
    for url in ("mysql://ann:s3cret@h/d", "postgresql://ann:s3cret@h:port/d", "sqlite://", "s3cret"):
        assert "s3cret" not in shell.refused("list", "--database-url", url, code=2)


# Disks


@pytest.fixture
def small(bare, monkeypatch):
    """A shell whose home is a file system of 2 MiB, with ./one pushed."""
    with mounted("tmpfs", "-o", "size=2m") as place:
        bare.home = place / "home"
        monkeypatch.setenv("ADAPTERS_HOME", str(bare.home))
        bare.say("push", "./one", "team/sql")
        yield bare, place


def fill(place, *, free):
    """Leaves this many bytes, in pages."""
    ballast = place / "ballast"
    ballast.unlink(missing_ok=True)
    space = os.statvfs(place)
    ballast.write_bytes(bytes(max(0, space.f_bavail * space.f_frsize - free)))


def test_a_push_to_a_full_disk_changes_nothing_whatever_room_is_left(small):
    """4 KiB at a time, until the push fits."""
    shell, place = small
    for pages in range(60):
        fill(place, free=4096 * pages)
        listed = shell.say("list", "--format", "json", "--all-versions")
        code, out, err = shell("push", "./two", "team/sql")
        if code == 0:
            break
        assert (code, out) == (7, ""), err
        assert err.startswith("error: ")
        assert os.strerror(28) in err or "full" in err
        assert shell.say("list", "--format", "json", "--all-versions") == listed
        assert not list((shell.home / "staging").iterdir())
    assert 1 < pages < 59
    (place / "ballast").unlink()
    assert json.loads(shell.say("fsck", "--format", "json"))["status"] == "pass"
    shell.say("gc", "--grace", "0")
    assert json.loads(shell.say("fsck", "--format", "json"))["findings"] == []


def test_a_pull_to_a_full_disk_leaves_nothing(small):
    shell, place = small
    fill(place, free=4096)
    before = snapshot(place)
    for target in ([], ["--to", str(place / "out")]):
        assert shell.refused("pull", "team/sql", *target, code=7, named="No space left")
        kept = {
            path: entry for path, entry in snapshot(place).items() if not path.endswith(("/pulled", ".json", ".lock"))
        }
        assert kept == before
    (place / "ballast").unlink()
    shell.say("pull", "team/sql")


def test_a_registry_on_a_read_only_mount_can_be_read(small, work):
    """list, show, verify and pull --to work; what would write says that it cannot."""
    shell, place = small
    gc.collect()  # the commands above ran in this process and held files open for writing
    remount(place, "ro")
    try:
        with shell.nothing_changed():
            assert json.loads(shell.say("list", "--format", "json"))[0]["ref"] == "team/sql@1"
            for verb in (["show", "team/sql"], ["verify", "team/sql"], ["log", "team/sql"], ["fsck"]):
                shell.say(*verb)
            shell.say("pull", "team/sql", "--to", "./out")
            changes = [["push", "./two", "t/two"], ["pull", "team/sql"], ["alias", "set", "team/sql", "prod"], ["gc"],
                       ["rm", "team/sql"], ["tag", "set", "team/sql", "a=b"]]  # fmt: skip
            for verb in changes:
                shell.refused(*verb, code=7, named="ead-only")
    finally:
        remount(place, "rw")
    assert (work / "out" / "adapter_config.json").read_bytes() == (work / "one" / "adapter_config.json").read_bytes()


def test_a_pull_to_a_read_only_mount_is_refused(shell):
    with mounted("tmpfs", "-o", "size=1m,ro") as place:
        shell.refused("pull", "team/sql", "--to", str(place / "out"), code=7, named="ead-only")
