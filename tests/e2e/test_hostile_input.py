"""Bad input through the real command line: the documented exit code, one line that names the thing, nothing changed."""

import json
import os
import socket
import stat
import struct
from pathlib import Path

import pytest

from tests.e2e.shell import snapshot
from tests.registry.places import needs

# Names and paths that have broken other programs: traversal, drives, encodings, devices, look-alikes, twins.
PAYLOADS = [
    "../x", "..\\x", "/etc/passwd", "C:\\x", "D:x", "\\\\h\\s", "a/../../b", "./a", "a//b", "a/./b", "%2e%2e%2f",
    "%252e%252e%252f", "..;/", "..%00/", "a\0b", "\u2025/", "\uff0e\uff0e/", "~root", "$HOME", "-rf", "--help", "CON",
    "nul.txt", "aux.", "name.", "name ", "\u202egnp", "e\u0301", "\u00e9", "n" * 256, "p/" * 2048, ".git", ".lock",
    "sha256:../..", "sha256:" + "a" * 63, "sha256:" + "a" * 65, "SHA256:" + "A" * 64, "md5:" + "a" * 32, "",
    "\U0001f600", "\u05d0\u05d1", "\u2028", "\x1b[31mred", "line\nline", "\udcff",
]  # fmt: skip
LIKE_NUMBERS = ["0", "v1", "latest", "99999999999999999999", "deadbeefdeadbeef"]


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
        shell.refused("merge", "team/sql", "team/sql", "--combination", "svd", "--into", "../x", code=2, named="'../x'")
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
    places |= {"n" * 256: 2, "p/" * 2048 + "x": 2}
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


@pytest.mark.parametrize("words", [("push", "", "team/x"), ("pull", "team/sql", "--to", ""), ("base", "add", "")])
def test_an_empty_path_is_no_path(shell, words):
    """An unset variable in a script must not mean the current folder."""
    with shell.nothing_changed():
        assert shell(*words)[0] == 2
