"""Pushers of content that is being deleted, beside a gc every tenth of a second: none fails, and no row dangles."""

import time

import pytest

from tests.registries import make_adapter
from tests.registry.stepping import Place, processes

CONTENTS = 5
LONG = [pytest.mark.slow, pytest.mark.timeout(1200)]
PAUSE_S = 0.1


def pusher(place, number, sources, end, answers):
    """Pushes, verifies what it pushed, and deletes it, so that gc is always after what the others push."""

    def turn(registry, done):
        ref = registry.push(sources[(done + number) % len(sources)], f"team/pusher{number}").ref
        registry.verify(ref)
        registry.remove(ref)

    answers.put(repeat("push", place, end, turn))


def collector(place, end, answers):
    def turn(registry, _):
        registry.gc(grace="0")
        time.sleep(PAUSE_S)

    answers.put(repeat("gc", place, end, turn))


def repeat(kind, place, end, turn):
    registry, done = place.open(), 0
    try:
        while time.time() < end:
            turn(registry, done)
            done += 1
    except BaseException as error:  # noqa: BLE001 (the parent must hear of it)
        return kind, done, f"{type(error).__name__}: {error}"
    finally:
        registry.close()
    return kind, done, None


@pytest.mark.parametrize(("pushers", "seconds"), [(3, 1.5), pytest.param(32, 150, marks=LONG)])
def test_no_push_of_deleted_content_fails_beside_gc(database_url, any_store_url, tmp_path, pushers, seconds):
    place = Place(tmp_path / "home", database_url, any_store_url)
    sources = [make_adapter(tmp_path / f"source{seed}", seed) for seed in range(CONTENTS)]
    registry = place.open()
    registry.init()
    answers = processes.SimpleQueue()
    end = time.time() + seconds + 0.2 * pushers
    children = [processes.Process(target=pusher, args=(place, n, sources, end, answers)) for n in range(pushers)]
    children.append(processes.Process(target=collector, args=(place, end, answers)))
    for child in children:
        child.start()
    heard = [answers.get() for _ in children]
    for child in children:
        child.join()

    counts = {kind: sum(done for which, done, _ in heard if which == kind) for kind in ("push", "gc")}
    print(f"{counts['push']} pushes by {pushers} pushers beside {counts['gc']} gc cycles")
    assert [error for _, _, error in heard if error] == []
    assert all(done > 0 for _, done, _ in heard)
    assert {finding.severity for finding in registry.fsck().findings} <= {"info"}
    registry.gc(grace="0")
    assert registry.fsck().findings == ()
    registry.close()
