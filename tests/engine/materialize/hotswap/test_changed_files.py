"""Files of images that are not, or no longer, what was written: never loaded in silence, never the end of the process."""

import os

import pytest
import torch

from engine.errors import HeaderError, OptionError, SourceGoneError, UnreadableError, WrongBytesError
from engine.format.imageset import read_imageset
from engine.materialize.hotswap import write_images
from engine.model.runtime import Runtime
from tests.engine.materialize.hotswap.sets import IDS, folders, mapped, small
from tests.engine.model.states import same_state, state


@pytest.fixture
def file(tmp_path):
    """A set of two, each of 104 KiB."""
    adapters = folders(tmp_path, small(), {"r": 2}, {"r": 3})
    return write_images(adapters, tmp_path / "set", target_rank=300).path


def flipped(file, name, *, times=True):
    """One bit within the image's factors, in place; `times`: with the time of change that it leaves."""
    image = read_imageset(file).images[name]
    before = file.stat()
    with file.open("r+b") as opened:
        opened.seek(image.start + 40)
        byte = opened.read(1)
        opened.seek(image.start + 40)
        opened.write(bytes([byte[0] ^ 1]))
    if not times:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def later(file):
    """Let the file say that it was changed, whatever the clock's steps are."""
    os.utime(file, ns=(1, 1))


def logits(runtime):
    with torch.no_grad():
        return runtime(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize("call", ["load", "swap", "prepare"])
def test_a_flipped_bit_is_refused_by_the_name_of_the_image_and_nothing_changes(call, file):
    runtime = Runtime(small(), slots=2)
    runtime.load("b", file)
    runtime.activate("b")
    before, expected = state(runtime), logits(runtime)
    flipped(file, "a", times=False)
    calls = {
        "load": lambda: runtime.load("a", file),
        "swap": lambda: runtime.swap("b", runtime.prepare(file, image="a")),
        "prepare": lambda: runtime.prepare(file, image="a"),
    }

    with pytest.raises(WrongBytesError, match="image 'a': wrong bytes: expected sha256:"):
        calls[call]()

    assert same_state(state(runtime), before) and runtime.adapters == ("b",)
    assert torch.equal(logits(runtime), expected)


def test_bytes_that_the_caller_knows_are_not_looked_at_again(file):
    flipped(file, "a")
    runtime = Runtime(small(), slots=2)

    runtime.load("a", runtime.prepare(file, image="a", verified=True))

    assert mapped(runtime, "a")


def test_the_other_image_of_the_file_is_still_good(file):
    flipped(file, "a")
    runtime = Runtime(small(), slots=2)

    runtime.load("b", file)

    assert runtime.adapters == ("b",)


def waiting(file):
    """A runtime with one slot: `b` has it, `a` waits as the file's own pages."""
    runtime = Runtime(small(), slots=1)
    runtime.load("b", file)
    runtime.load("a", file)
    assert mapped(runtime, "a") and runtime.status().adapters[1].slot is None
    return runtime


CHANGES = {
    "cut short": lambda file: os.truncate(file, 4096),
    "emptied": lambda file: os.truncate(file, 0),
    "written over": lambda file: (flipped(file, "a"), later(file)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("call", ["activate", "state_dict", "merge"])
def test_a_mapped_file_that_changed_is_an_error_before_its_pages_are_touched(change, call, file):
    """Pages behind the end of a file end the process; this test would not come to its end."""
    runtime = waiting(file)
    before = state(runtime)
    CHANGES[change](file)

    with pytest.raises(SourceGoneError, match="changed since it was loaded"):
        getattr(runtime, call)("a")

    assert same_state(state(runtime), before)
    runtime.activate("b")  # its numbers lie in the slot


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_prepared_is_looked_at_again_when_it_is_loaded(change, file):
    runtime = Runtime(small(), slots=1)
    staged = runtime.prepare(file, image="a")
    CHANGES[change](file)

    with pytest.raises(SourceGoneError, match="changed since it was loaded"):
        runtime.load("a", staged)

    assert runtime.adapters == ()


@pytest.mark.parametrize("change", ["renamed over", "deleted"])
def test_a_file_replaced_by_a_new_one_leaves_what_was_mapped_alone(change, file, tmp_path):
    runtime = waiting(file)
    expected = runtime.state_dict("a")
    if change == "deleted":
        file.unlink()
    else:
        (tmp_path / "new").write_bytes(b"something else")
        (tmp_path / "new").rename(file)

    runtime.activate("a")

    found = runtime.state_dict("a")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_dropped_image_is_mapped_again_with_the_same_numbers(file):
    runtime = Runtime(small(), slots=1, host_bytes=0)
    runtime.load("b", file)
    runtime.load("a", file)
    runtime.activate("a")
    first = logits(runtime)
    runtime.activate("b")
    assert not runtime.status().adapters[0].on_host

    runtime.activate("a")

    assert torch.equal(logits(runtime), first)


@pytest.mark.parametrize("verified", [False, True])
@pytest.mark.parametrize("change", [*CHANGES, "other images", "gone"])
def test_a_dropped_image_of_a_file_that_changed_is_never_taken_for_the_same(change, verified, file, tmp_path):
    """Not even where its bytes were known to be right when it was loaded."""
    runtime = Runtime(small(), slots=1, host_bytes=0)
    for name in "ba":
        runtime.load(name, runtime.prepare(file, image=name, verified=verified))
    if change == "gone":
        file.unlink()
    elif change == "other images":
        file.unlink()
        (tmp_path / "other").mkdir()
        write_images(folders(tmp_path / "other", small(), {"r": 4}, {"r": 3}), file, target_rank=300)
    else:
        CHANGES[change](file)
    before = state(runtime)

    with pytest.raises(SourceGoneError):
        runtime.activate("a")

    assert same_state(state(runtime), before)


def test_a_file_cut_short_before_it_is_loaded_is_no_file_of_images(file):
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 1)

    with pytest.raises(HeaderError, match="truncated"):
        Runtime(small()).load("a", file)


def test_a_file_that_shrinks_between_its_map_and_its_pages_is_refused(file):
    from engine.model.memory.mapped import Mapped

    images = read_imageset(file)
    os.truncate(file, file.stat().st_size - 4096)

    with pytest.raises(HeaderError, match="size changed"):
        Mapped(images, images.images["a"])


def test_nothing_that_an_image_derives_reaches_the_file(tmp_path):
    adapters = folders(tmp_path, small(), {"r": 2, "use_dora": True})
    file = write_images(adapters, tmp_path / "set").path
    before = file.read_bytes()
    runtime = Runtime(small())

    runtime.load("a", file)

    assert mapped(runtime, "a")
    assert runtime._residence.image("a").views("model.layers.0.self_attn.q_proj")["gain"].any()
    assert file.read_bytes() == before


NAMES = {
    "an image that is not there": (lambda runtime, file, _: runtime.prepare(file, image="c"), OptionError, "holds the images a, b; found 'c'"),
    "no image named": (lambda runtime, file, _: runtime.prepare(file), OptionError, "holds the images a, b; found None"),
    "a name that no image has": (lambda runtime, file, _: runtime.load("sql", file), OptionError, "found 'sql': name one of them"),
    "an image of a folder": (lambda runtime, _, folder: runtime.prepare(folder, image="a"), OptionError, "is a folder, which holds one adapter"),
    "weights alone": (lambda runtime, _, folder: runtime.load("a", folder / "adapter_model.safetensors"), UnreadableError, "holds no hot-swap images"),
    "nothing there": (lambda runtime, _, folder: runtime.load("a", folder / "nothing"), UnreadableError, "not a folder"),
    "a link": (lambda runtime, file, folder: runtime.load("a", _link(file, folder)), UnreadableError, "not a regular file|symbolic link"),
}  # fmt: skip


def _link(file, folder):
    (folder / "link").symlink_to(file)
    return folder / "link"


@pytest.mark.parametrize("case", NAMES)
def test_what_names_no_image_is_refused_with_those_that_there_are(case, file, tmp_path):
    call, error, told = NAMES[case]
    runtime = Runtime(small())

    with pytest.raises(error, match=told):
        call(runtime, file, tmp_path / "a")

    assert runtime.adapters == ()


def test_the_only_image_of_a_file_is_loaded_under_any_name(tmp_path):
    write_images({"one": folders(tmp_path, small(), {"r": 2})["a"]}, tmp_path / "set")
    runtime = Runtime(small())

    runtime.load("team/sql@prod", tmp_path / "set")

    assert runtime.adapters == ("team/sql@prod",)
