"""Two homes on one database want one folder: the second waits beside the destination, and moves nothing that is right."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from registry.artifacts import materialize, rebuild
from registry.collecting import builds
from registry.errors import ConflictError
from tests.registries import make_adapter, open_registry
from tests.registry.artifacts import world

LONG_S = 60


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(builds, "_PAUSE_S", 0.001)
    monkeypatch.setattr(builds, "_TELL_AFTER_S", 0.0)


@pytest.fixture
def homes(postgres_url, tmp_path):
    make_adapter(tmp_path / "source", 1)
    make_adapter(tmp_path / "other", 2)
    opened = [open_registry(tmp_path / f"home{number}", postgres_url) for number in range(2)]
    yield opened
    for one in opened:
        one.close()


def plain(registry, to, source="source", **options):
    place = registry.settings.home.parent / source
    return registry.materialize([place], kind="peft", to=to, rank=8, **options)


class Seam:
    """The first call of a function waits, before it is carried out, until `others` are done or wait themselves."""

    def __init__(self, honest):
        self.honest, self.reached, self.free = honest, threading.Event(), threading.Event()

    def __call__(self, *args, **options):
        if not self.reached.is_set():
            self.reached.set()
            assert self.free.wait(LONG_S)
        return self.honest(*args, **options)


@contextmanager
def held_at(monkeypatch, module, name):
    seam = Seam(getattr(module, name))
    monkeypatch.setattr(module, name, seam)
    yield seam
    seam.free.set()


def race(seam, first, second):
    """What both return; `second` begins when `first` is at the seam, which lasts until `second` is done or waits."""
    told = []

    def waits(text):
        told.append(text)
        seam.free.set()

    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(first)
        one.add_done_callback(lambda _: seam.reached.set())
        assert seam.reached.wait(LONG_S)
        assert not one.done(), one.result()
        other = threads.submit(second, waits)
        other.add_done_callback(lambda _: seam.free.set())
        return one.result(LONG_S), other.result(LONG_S), told


def left(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir() if "out" in path.name)


@pytest.mark.parametrize("step", ["put", "place_of"])
def test_a_finished_build_is_not_taken_away_by_the_other_home(homes, tmp_path, monkeypatch, step):
    """Before it has its name it lies in a folder that the other's build would begin with."""
    to = tmp_path / "out"
    with held_at(monkeypatch, materialize, step) as seam:
        one, other, told = race(seam, lambda: plain(homes[0], to), lambda waits: plain(homes[1], to, notice=waits))

    assert (one.reused, other.reused, one.artifact) == (None, "kept", other.artifact)
    assert told == [f"another process is writing {to}: waiting for it"]
    assert left(tmp_path) == ["out"]
    assert homes[0].verify_artifact(str(to)).status == "pass"


def test_a_folder_made_right_meanwhile_is_not_moved_aside(homes, tmp_path, monkeypatch):
    """Both find it changed; the second to go on finds it made anew."""
    to = tmp_path / "out"
    plain(homes[0], to)
    world.flip(to / "adapter_config.json")
    with held_at(monkeypatch, materialize, "move_aside") as seam:
        one, other, told = race(seam, lambda: plain(homes[0], to), lambda waits: plain(homes[1], to, notice=waits))

    assert ((one.reused, len(one.notes)), (other.reused, other.notes)) == ((None, 1), ("kept", ()))
    assert len(told) == 1
    assert left(tmp_path) == ["out", "out.changed-1"]


@pytest.mark.parametrize("to", ["given", "known"])
def test_a_rebuild_waits_for_who_writes_its_place(homes, tmp_path, monkeypatch, to):
    out = tmp_path / "out"
    plain(homes[0], out)
    wanted = tmp_path / "outer" if to == "given" else None
    if wanted is None:
        world.flip(out / "adapter_config.json")

    def again(home, notice):
        try:
            return home.rebuild_artifact(1, to=wanted, notice=notice).path
        except ConflictError as error:
            return str(error)

    with held_at(monkeypatch, rebuild, "put") as seam:
        one, other, told = race(seam, lambda: again(homes[0], None), lambda waits: again(homes[1], waits))

    assert one == (wanted or out)
    assert other == (f"{wanted} exists already" if wanted else None)
    assert told == [f"another process is writing {wanted or out}: waiting for it"]
    assert left(tmp_path) == ["out", "outer" if wanted else "out.changed-1"]


def test_another_recipe_for_the_same_folder_waits_and_is_refused(homes, tmp_path, monkeypatch):
    to = tmp_path / "out"

    def wants(waits):
        with pytest.raises(ConflictError, match="out exists already"):
            plain(homes[1], to, "other", notice=waits)

    with held_at(monkeypatch, materialize, "put") as seam:
        one, _, told = race(seam, lambda: plain(homes[0], to), wants)

    assert (one.reused, len(told)) == (None, 1)
    assert world.bytes_of(to).keys() == {"adapter_config.json", "adapter_model.safetensors"}
    assert [artifact.recipe_digest for artifact in homes[0].artifacts()] == [one.recipe_digest]


def test_long_names_that_begin_alike_are_built_beside_each_other(homes, tmp_path, monkeypatch):
    """Their first hundred bytes are equal; neither waits for the other, nor takes its build."""
    places = [tmp_path / ("out-" + "x" * 120 + end) for end in "12"]
    with held_at(monkeypatch, materialize, "put") as seam:
        one, other, told = race(
            seam, lambda: plain(homes[0], places[0]), lambda waits: plain(homes[1], places[1], notice=waits)
        )

    assert (one.artifact, told) == (other.artifact, [])
    assert world.bytes_of(places[0]) == world.bytes_of(places[1])
    assert left(tmp_path) == sorted(place.name for place in places)
