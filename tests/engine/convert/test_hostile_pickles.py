"""Pickles that ask for more than tensors are refused by opcode, global and byte; and nothing happens meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine.convert import program
from engine.convert.weights import inspect
from engine.errors import NotLoadableError
from tests.engine.convert.hostile import CANARY, LONG, OLDER, PICKLES
from tests.engine.convert.pickles import legacy, pid, tensor, text, weights, zipped
from tests.engine.convert.pickles import program as pickle_of


def refusal(data):
    with pytest.raises(NotLoadableError) as caught:
        inspect(memoryview(data), "adapter_model.bin")
    return caught.value


def test_the_same_file_around_a_sound_pickle_is_read():
    """The control: what refuses below is the pickle, not the file around it."""
    for data in (zipped(), legacy()):
        found = inspect(memoryview(data), "x").tensors["a"]

        assert (found.dtype, found.shape, found.stride, found.offset) == ("F32", (2, 3), (3, 1), 0)


def test_there_are_enough_cases():
    assert len(PICKLES) >= 180


@pytest.mark.parametrize("case", PICKLES)
def test_a_hostile_pickle_is_refused(case):
    data, opcode, name = PICKLES[case]

    error = refusal(zipped(data))

    assert str(error).startswith("adapter_model.bin: not loadable here: ")
    assert (error.opcode, error.name) == (opcode, name)
    assert "safe" not in str(error).replace("safetensors", "")
    if opcode:
        assert error.position is not None
        assert f"(byte {error.position} of data.pkl)" in str(error)
        assert opcode in str(error)
    if name:
        assert name in str(error)


@pytest.mark.parametrize("case", OLDER)
def test_it_is_refused_in_the_older_layout_too(case):
    data, opcode, name = PICKLES[case]

    error = refusal(legacy(data))

    assert (error.opcode, error.name) == (opcode, name)


@pytest.mark.parametrize("place", ["magic", "protocol", "system"])
def test_the_pickles_before_the_weights_are_followed_too(place):
    """The older layout begins with three pickles that a naive loader unpickles before it looks at anything."""
    attack = PICKLES["GLOBAL os.system"][0]

    assert refusal(legacy(**{place: attack})).name in {"os.system", None}
    if place != "magic":  # a file that begins otherwise is not of that layout at all
        assert refusal(legacy(**{place: attack})).name == "os.system"


def test_the_list_of_keys_is_followed_too():
    attack = PICKLES["GLOBAL os.system"][0]

    assert refusal(legacy(weights(tensor(pid(more=b"N"))) + attack)).name == "os.system"


def test_a_pickle_without_end_is_given_up(monkeypatch):
    monkeypatch.setattr(program, "MAX_STEPS", 1000)
    data = pickle_of(b"}" + b"q\x00" * 1000)

    error = refusal(zipped(data))

    assert "more than 1,000 opcodes" in str(error)
    assert (error.opcode, error.position) == ("BINPUT", 2 + 1 + 2 * 998)


def test_text_of_a_pickle_is_no_part_of_a_terminal():
    """A refusal quotes names, never raw control characters: the command line escapes the rest."""
    error = refusal(zipped(pickle_of(b"}", text("\x1b[31mred\nline"), b"Ns")))

    assert "\x1b" not in str(error)
    assert "\n" not in str(error)


# Runs in a process of its own: an audit hook cannot be taken off again.
WATCH = """
import importlib, json, sys
from engine.convert import legacy, weights, ziplayer  # noqa
from engine.errors import NotLoadableError
from tests.engine.convert.hostile import LONG, PICKLES
from tests.engine.convert.pickles import legacy, zipped
files = [around(data) for case, (data, _, _) in PICKLES.items() if case not in LONG for around in (zipped, legacy)]
modules, events, refused = set(sys.modules), [], 0
quiet = {"object.__getattr__", "sys._getframe", "builtins.id"}
sys.addaudithook(lambda name, args: None if name in quiet else events.append([name, repr(args)[:200]]))
for data in files:
    try:
        weights.inspect(memoryview(data), "x")
    except NotLoadableError:
        refused += 1
seen = list(events)
print(json.dumps({"events": seen, "imported": sorted(set(sys.modules) - modules), "refused": refused, "all": len(files)}))
"""


@pytest.fixture(scope="module")
def watched():
    Path(CANARY).unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", WATCH], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3]
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_file_was_refused_under_watch(watched):
    assert watched["refused"] == watched["all"] == 2 * len(PICKLES.keys() - LONG)


def test_nothing_was_imported_opened_or_run(watched):
    assert watched["imported"] == []
    assert watched["events"] == []


def test_the_canary_never_sang(watched):
    assert not Path(CANARY).exists()
