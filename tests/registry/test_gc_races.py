"""A push beside gc, at every pair of their steps: the push succeeds, and nothing that a row names is ever missing.

Both run for real, each in a thread with connections of its own; they are stopped before or after their transactions.
"""

import multiprocessing
import threading
import time
from collections import Counter

import pytest

from tests.registries import make_adapter, open_registry

# before, inside or after a transaction; what its work is called; which of that name
PUSH_STEPS = {
    "staged": ("before", "acquire", 1),
    "leased": ("after", "acquire", 1),
    "placed": ("before", "<lambda>", 1),
    "publishing": ("inside", "<lambda>", 1),
    "recorded": ("after", "<lambda>", 1),
}
GC_STEPS = {
    "leases dropped": ("after", "<lambda>", 1),
    "versions freed": ("after", "_free_some", 1),
    "condemned": ("after", "condemn", 1),
    "claimed": ("after", "take", 1),
    "deleted": ("before", "forget", 1),
    "forgotten": ("after", "forget", 1),
    "adopting": ("inside", "adopt", 1),
    "adopted": ("after", "adopt", 1),
}
# Where one must wait for the other, this is how long it is given before the other goes on.
BLOCKED_S = 0.3
PATIENCE_S = 60


class Stepper:
    """Runs work with a registry of its own in a thread, stopping once at a step. A class because it holds the thread."""

    def __init__(self, registry, step, work):
        self._when, *self._which = step
        self._stopped, self._go, self._ended = threading.Event(), threading.Event(), threading.Event()
        self._writes = Counter()
        self.reached = False
        self.result = self.error = None
        self._write = registry._handle.database.write
        registry._handle.database.write = self._stepping
        self._thread = threading.Thread(target=self._run, args=(registry, work))
        self._thread.start()

    def until_stopped(self, patience=PATIENCE_S):
        """Waits until the step is reached or the work ended, no longer than `patience`; whether it was reached."""
        end = time.monotonic() + patience
        while not (self._stopped.is_set() or self._ended.is_set()) and time.monotonic() < end:
            time.sleep(0.001)
        return self._stopped.is_set()

    def go_on(self, *, patience=PATIENCE_S):
        """Continues, to the end if nothing is in the way."""
        self._go.set()
        return self._ended.wait(patience)

    def finish(self):
        assert self.go_on(), "still running"
        self._thread.join()
        if self.error is not None:
            raise self.error
        return self.result

    def _run(self, registry, work):
        try:
            self.result = work(registry)
        except Exception as error:  # noqa: BLE001 (the test must hear of it)
            self.error = error
        finally:
            registry.close()
            self._ended.set()

    def _stepping(self, work):
        name = getattr(work, "func", work).__name__
        self._writes[name] += 1
        mine = [name, self._writes[name]] == self._which
        if mine and self._when == "before":
            self._stop()
        result = self._write(self._inside(work) if mine and self._when == "inside" else work)
        if mine and self._when == "after":
            self._stop()
        return result

    def _inside(self, work):
        def stopping(session):
            result = work(session)
            session.flush()
            self._stop()
            return result

        return stopping

    def _stop(self):
        if self._go.is_set():
            return
        self.reached = True
        self._stopped.set()
        assert self._go.wait(PATIENCE_S)


@pytest.fixture
def place(database_url, tmp_path):
    return tmp_path / "home", database_url


def deleted(registry, source, name):
    """The content is a deleted version of the same name."""
    registry.remove(registry.push(source, name).ref)


def deleted_elsewhere(registry, source, name):
    """The content is a deleted version of another name."""
    registry.remove(registry.push(source, f"{name}-twin").ref)


def orphaned(registry, source, name):
    """The content lies in the store and no row names it."""
    for path in source.iterdir():
        registry._handle.store.put_bytes(path.read_bytes())


# Every fifth pair has each step of both in it.
@pytest.mark.parametrize("every", [5, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
@pytest.mark.parametrize("prepare", [deleted, deleted_elsewhere, orphaned])
@pytest.mark.parametrize("first", ["push", "gc"])
def test_every_pair_of_steps(place, tmp_path, first, prepare, every):
    """`first` ends while the other stands at its step, unless it must wait for it."""
    together, registry = 0, open_registry(*place)
    pairs = [(push_step, gc_step) for push_step in PUSH_STEPS for gc_step in GC_STEPS][::every]
    for index, (push_step, gc_step) in enumerate(pairs):
        name, source = f"team/pair{index}", make_adapter(tmp_path / f"source{index}", index)
        prepare(registry, source, name)
        deleted(registry, make_adapter(tmp_path / f"other{index}", 1000 + index), "team/other")
        registry._handle.store.put_bytes(f"orphan {index}".encode())  # always work for gc, of both kinds

        push = Stepper(
            open_registry(*place), PUSH_STEPS[push_step], lambda one, path=source, name=name: one.push(path, name)
        )
        assert push.until_stopped(), push.error
        gc = Stepper(open_registry(*place), GC_STEPS[gc_step], lambda one: one.gc(grace="0"))
        together += gc.until_stopped(BLOCKED_S if push_step == "publishing" else PATIENCE_S)
        (push if first == "push" else gc).go_on(patience=BLOCKED_S)
        collected = gc.go_on(patience=0) and gc.finish()
        result = push.finish()
        gc.finish()

        case = (push_step, gc_step, collected)
        assert {finding.severity for finding in registry.fsck().findings} <= {"info"}, case
        assert registry.verify(result.ref).status == "pass", case
    # On SQLite nothing of gc happens while a push is inside its transaction; all other pairs stood side by side.
    assert together >= sum(push_step != "publishing" for push_step, _ in pairs)
    registry.gc(grace="0")
    assert registry.fsck().findings == ()
    for info in registry.list():
        assert registry.verify(info.ref).status == "pass"
    registry.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("seconds", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_four_pushers_of_deleted_content_beside_gc_never_fail(place, tmp_path, seconds):
    """Each verifies what it has just pushed, then deletes it, so that gc is always after what the others push."""
    sources = [make_adapter(tmp_path / f"source{seed}", seed) for seed in range(3)]
    open_registry(*place).close()
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()
    end = time.monotonic() + seconds

    def repeat(kind, work):
        registry, rounds = open_registry(*place), 0
        try:
            while time.monotonic() < end:
                work(registry, rounds)
                rounds += 1
            answers.put((kind, rounds, None))
        except BaseException as error:  # noqa: BLE001 (the parent must hear of it)
            answers.put((kind, rounds, f"{type(error).__name__}: {error}"))

    def pusher(number):
        def work(registry, turn):
            ref = registry.push(sources[(turn + number) % len(sources)], f"team/pusher{number}").ref
            registry.verify(ref)
            registry.remove(ref)

        return work

    works = [("push", pusher(number)) for number in range(4)] + [("gc", lambda one, turn: one.gc(grace="0"))]
    children = [fork.Process(target=repeat, args=work) for work in works]
    for child in children:
        child.start()
    heard = [answers.get() for _ in children]
    for child in children:
        child.join()

    print(heard)
    assert [error for _, _, error in heard if error] == []
    assert all(rounds > 0 for _, rounds, _ in heard)
    registry = open_registry(*place)
    assert {finding.severity for finding in registry.fsck().findings} <= {"info"}
    registry.gc(grace="0")
    assert registry.fsck().findings == ()
    registry.close()
