"""Pushers of content that is being deleted, beside a gc every tenth of a second: none fails, and no row dangles."""

import time

import pytest

from tests.registries import make_adapter
from tests.registry.stepping import Place, processes

CONTENTS = 5
LONG = [pytest.mark.slow, pytest.mark.timeout(1200)]
PAUSE_S = 0.1


def pusher(place, together, number, sources):
    """Pushes, verifies what it pushed, and deletes it, so that gc is always after what the others push."""

    def turn(registry, done):
        ref = registry.push(sources[(done + number) % len(sources)], f"team/pusher{number}").ref
        registry.verify(ref)
        registry.remove(ref)

    repeat("push", place, together, turn)


def collector(place, together):
    def turn(registry, _):
        registry.gc(grace="0")
        time.sleep(PAUSE_S)

    repeat("gc", place, together, turn)


def repeat(kind, place, together, turn):
    """Answers what it was, how many turns it had (at least one) since all were ready, and what failed."""
    start, seconds, answers = together
    registry, done, failure = place.open(), 0, None
    try:
        start.wait()
        end = time.monotonic() + seconds
        while done == 0 or time.monotonic() < end:
            turn(registry, done)
            done += 1
    except BaseException as error:  # noqa: BLE001 (the parent must hear of it)
        failure = f"{type(error).__name__}: {error}"
    registry.close()
    answers.put((kind, done, failure))


@pytest.mark.parametrize(("pushers", "seconds"), [(3, 1.5), pytest.param(32, 120, marks=LONG)])
def test_no_push_of_deleted_content_fails_beside_gc(database_url, any_store_url, tmp_path, pushers, seconds):
    place = Place(tmp_path / "home", database_url, any_store_url)
    sources = [make_adapter(tmp_path / f"source{seed}", seed) for seed in range(CONTENTS)]
    registry = place.open()
    registry.init()
    answers = processes.SimpleQueue()
    together = (processes.Barrier(pushers + 1), seconds, answers)
    children = [processes.Process(target=pusher, args=(place, together, n, sources)) for n in range(pushers)]
    children.append(processes.Process(target=collector, args=(place, together)))
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
