"""Many processes push to one name at the same moment, into a registry that none of them has made yet."""

import multiprocessing

import pytest

from tests.registries import make_adapter, open_registry

NAME = "team/sql"

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.parametrize("processes", [10, pytest.param(32, marks=pytest.mark.slow)]),
]


def together(work, processes):
    """`work(index)` in each of the processes, which start at once; what they return, by index."""
    fork = multiprocessing.get_context("fork")
    results, gate = fork.SimpleQueue(), fork.Barrier(processes)

    def child(index):
        gate.wait()
        try:
            results.put((index, work(index)))
        except BaseException as error:  # noqa: BLE001 (the parent must hear of it)
            results.put((index, f"{type(error).__name__}: {error}"))

    children = [fork.Process(target=child, args=(index,)) for index in range(processes)]
    for process in children:
        process.start()
    answers = dict(results.get() for _ in children)
    for process in children:
        process.join()
    assert [answer for answer in answers.values() if isinstance(answer, str)] == []
    return [answers[index] for index in range(processes)]


def pushing(home, url, sources):
    def work(index):
        result = open_registry(home, url).push(sources[index % len(sources)], NAME)
        return result.version, result.created, result.digest

    return work


@pytest.fixture
def place(empty_database_url, tmp_path):
    """A home that is not there yet and a database without a schema."""
    return tmp_path / "home", empty_database_url


def test_different_content_makes_as_many_versions(place, tmp_path, processes):
    sources = [make_adapter(tmp_path / f"source{seed}", seed) for seed in range(processes)]

    answers = together(pushing(*place, sources), processes)

    assert sorted(version for version, _, _ in answers) == list(range(1, processes + 1))
    assert all(created for _, created, _ in answers)
    registry = open_registry(*place)
    listed = {info.version: info.digest for info in registry.list(all_versions=True)}
    assert listed == {version: digest for version, _, digest in answers}
    assert len(set(listed.values())) == processes
    for index, (version, _, _) in enumerate(answers):
        pulled = registry.pull(f"{NAME}@{version}") / "adapter_model.safetensors"
        assert pulled.read_bytes() == (sources[index] / "adapter_model.safetensors").read_bytes()
    assert registry.fsck().findings == ()
    registry.close()


def test_the_same_content_is_one_version_and_every_push_succeeds(place, tmp_path, processes):
    answers = together(pushing(*place, [make_adapter(tmp_path / "source")]), processes)

    assert sorted((version, created) for version, created, _ in answers) == [(1, False)] * (processes - 1) + [(1, True)]
    assert len({digest for _, _, digest in answers}) == 1
    registry = open_registry(*place)
    assert [info.version for info in registry.list(all_versions=True)] == [1]
    assert registry.fsck().findings == ()
    registry.close()
