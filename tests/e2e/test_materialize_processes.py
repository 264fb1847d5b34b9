"""Artifacts under kills and races: a folder is whole or not there, what is listed is true, gc and rm take nothing needed."""

import multiprocessing
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from registry.artifacts import contents
from registry.errors import NotFoundError
from tests.e2e.crashes import Inline
from tests.e2e.test_push_crashes import Places, every, sweep
from tests.registries import make_adapter, open_registry
from tests.registry.artifacts import world

pytestmark = [pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"), pytest.mark.timeout(600)]
FORK = multiprocessing.get_context("fork")


def plain(registry, to, **options):
    return registry.materialize(["team/sql"], kind="peft", to=to, rank=8, **options)


def filled(registry):
    registry.push(make_adapter(registry.settings.home.parent / "source", 1), "team/sql")


def result_of(registry):
    """A folder for each home: those of the others that were killed lie beside it."""
    place = registry.settings.home.with_name(f"{registry.settings.home.name}-result")
    place.mkdir(exist_ok=True)
    return place / "out"


def wanted(registry):
    """What the folder has to hold, from a registry that nobody disturbed."""
    to = registry.settings.home.parent / "wanted"
    if not to.exists():
        other = open_registry(registry.settings.home.parent / "calm")
        filled(other)
        plain(other, to)
        other.close()
    return world.bytes_of(to)


@pytest.fixture(params=["sqlite", "postgresql"])
def server(request):
    """The PostgreSQL server, or None for SQLite."""
    return None if request.param == "sqlite" else request.getfixturevalue("postgres_server")


@pytest.fixture
def one_thread(monkeypatch):
    """Hashing works where it is asked, so that strace has one thread to count."""
    monkeypatch.setattr(contents, "ThreadPoolExecutor", Inline)


@pytest.mark.usefixtures("one_thread")
@every(250)
def test_a_stored_artifact_killed_anywhere(tmp_path, server, step):
    """The folder is there whole or not at all; the same request then ends well, and gc leaves what it keeps."""

    def work(registry, speaker):
        result = plain(registry, result_of(registry), store=True)
        speaker.write(f"{result.digest}\n")

    def check(registry, said):
        to = result_of(registry)
        if to.exists():
            assert world.bytes_of(to) == wanted(registry)
        else:
            assert "sha256:" not in said
        again = plain(registry, to, store=True)
        assert (again.stored, again.notes) == (True, ())
        assert world.bytes_of(to) == wanted(registry)
        assert registry.verify_artifact(1).status == "pass"
        registry.gc(grace="0")
        assert list(registry.settings.artifacts.iterdir()) == []
        world.delete(to)
        assert plain(registry, to).reused == "restored"
        assert [path.name for path in to.parent.iterdir() if ".out" in path.name] == []

    found = sweep(Places(tmp_path, filled, server), work, check, tmp_path, step)

    assert {point.call for point in found} >= {"mkdir", "rename", "fsync"}


def together(*works):
    """Each in a process of its own, started at once; what they return, or the errors as text."""
    results, gate = FORK.SimpleQueue(), FORK.Barrier(len(works))

    def child(index, work):
        gate.wait()
        try:
            results.put((index, work()))
        except BaseException as error:  # noqa: BLE001 (the parent must hear of it)
            results.put((index, f"{type(error).__name__}: {error}"))

    children = [FORK.Process(target=child, args=item) for item in enumerate(works)]
    for process in children:
        process.start()
    answers = dict(results.get() for _ in children)
    for process in children:
        process.join()
    return [answers[index] for index in range(len(works))]


@pytest.fixture
def place(database_url, tmp_path):
    """A home with team/sql@1, on each database; no connection of this process is left when it forks."""
    registry = open_registry(tmp_path / "home", database_url)
    filled(registry)
    registry.close()
    return tmp_path / "home", database_url


def test_of_many_that_ask_at_once_one_builds(place, tmp_path):
    def asks(number):
        registry = open_registry(*place)
        result = plain(registry, tmp_path / f"out{number}")
        return result.reused, result.artifact, result.digest

    answers = together(*(lambda number=number: asks(number) for number in range(6)))

    assert sorted(str(reused) for reused, _, _ in answers) == ["None", *["copied"] * 5]
    assert len({(artifact, digest) for _, artifact, digest in answers}) == 1
    folders = [world.bytes_of(tmp_path / f"out{number}") for number in range(6)]
    assert folders == [folders[0]] * 6
    registry = open_registry(*place)
    assert len(registry.artifacts()[0].places) == 6
    registry.close()


def test_of_many_that_want_one_folder_all_get_it(place, tmp_path):
    def asks():
        return plain(open_registry(*place), tmp_path / "out").reused

    answers = together(*[asks] * 6)

    assert sorted(map(str, answers)) == ["None", *["kept"] * 5]
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out"]


def test_processes_of_other_homes_build_beside_each_other(postgres_url, tmp_path):
    """Their locks do not meet: the row is one, each folder is whole."""
    make_adapter(tmp_path / "source", 1)

    def asks(number):
        registry = open_registry(tmp_path / f"home{number}", postgres_url)
        return registry.materialize([tmp_path / "source"], kind="peft", to=tmp_path / f"o{number}", rank=8).artifact

    answers = together(*(lambda number=number: asks(number) for number in range(4)))

    assert answers == [answers[0]] * 4
    assert isinstance(answers[0], int)
    folders = [world.bytes_of(tmp_path / f"o{number}") for number in range(4)]
    assert folders == [folders[0]] * 4


def test_processes_of_other_homes_that_want_one_folder_all_get_it(postgres_url, tmp_path):
    """Their locks meet beside the folder: one builds, whoever comes later finds it and moves nothing."""
    make_adapter(tmp_path / "source", 1)

    def asks(number):
        registry = open_registry(tmp_path / f"home{number}", postgres_url)
        to = tmp_path / "out"
        return registry.materialize([tmp_path / "source"], kind="peft", to=to, rank=8).reused

    for spoilt in range(3):
        answers = together(*(lambda number=number: asks(number) for number in range(4)))

        assert sorted(map(str, answers)) == ["None", *["kept"] * 3]
        aside = [f"out.changed-{number}" for number in range(1, spoilt + 1)]
        assert sorted(path.name for path in tmp_path.iterdir() if "out" in path.name) == ["out", *aside]
        world.flip(tmp_path / "out" / "adapter_config.json")


@pytest.mark.parametrize("rounds", [6, pytest.param(60, marks=pytest.mark.slow)])
def test_requests_beside_rm_and_gc_end_well(place, tmp_path, rounds):
    def asks():
        registry, found = open_registry(*place), set()
        for number in range(rounds):
            result = plain(registry, tmp_path / f"out{number}", store=True)
            found.add(result.digest)
        return found

    def removes():
        registry = open_registry(*place)
        for _ in range(rounds * 3):
            try:
                registry.remove_artifact(1)
            except NotFoundError:
                time.sleep(0.02)
        return set()

    def collects():
        registry = open_registry(*place)
        for _ in range(rounds):
            registry.gc(grace="0")
            time.sleep(0.02)
        return set()

    answers = together(asks, removes, collects)

    assert [answer for answer in answers if isinstance(answer, str)] == []
    (digest,) = answers[0]
    registry = open_registry(*place)
    last = plain(registry, tmp_path / "last", store=True)
    registry.gc(grace="0")
    assert (last.digest, registry.fsck().findings) == (digest, ())
    folders = [world.bytes_of(tmp_path / f"out{number}") for number in range(rounds)]
    assert folders == [world.bytes_of(tmp_path / "last")] * rounds
    registry.close()


def big_base(folder):
    folder.mkdir()
    draw = np.random.default_rng(0).standard_normal((4096, 2048)).astype(np.float32)
    tensors = {f"model.layers.{number}.mlp.up_proj.weight": draw + number for number in range(4)}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
    return folder


def big_adapter(folder):
    draw = np.random.default_rng(1).standard_normal
    tensors = {}
    for number in range(4):
        name = f"base_model.model.model.layers.{number}.mlp.up_proj"
        tensors |= {f"{name}.lora_A.weight": draw((8, 2048)), f"{name}.lora_B.weight": draw((4096, 8))}
    return make_adapter(
        folder,
        rank=8,
        tensors={key: value.astype(np.float32) for key, value in tensors.items()},
        target_modules=["up_proj"],
    )


@pytest.mark.slow
def test_a_process_killed_while_it_merges_leaves_nothing_and_is_resumed(tmp_path):
    base, adapter, out = big_base(tmp_path / "base"), big_adapter(tmp_path / "a"), tmp_path / "out"
    command = [Path(sys.executable).with_name("adapters"), "materialize", adapter, "--base", base, "--as", "merged"]
    command += ["--to", out, "--jobs", "1", "--resume", "--format", "quiet", "--home", tmp_path / "home"]
    kills = 0
    for _ in range(4):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            while process.poll() is None and not any(tmp_path.glob("..out.*.partial/*")):
                time.sleep(0.005)
            if process.poll() is None:
                time.sleep(0.1)
                process.send_signal(signal.SIGKILL)
                kills += 1
        assert not out.exists() or process.returncode == 0
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    assert kills
    registry = open_registry(tmp_path / "home")
    assert registry.verify_artifact(str(out), measure=True).status == "pass"
    assert [path.name for path in tmp_path.iterdir() if ".out" in path.name] == []
    registry.close()
