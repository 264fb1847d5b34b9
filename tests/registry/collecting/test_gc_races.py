"""A push beside gc, at every pair of their steps, and with either of them killed there.

The push succeeds (or, killed, its retry does), and nothing that a row names is ever missing. Both run in processes of
their own against one database and one store.
"""

import itertools
import time

import pytest

from tests.registries import make_adapter
from tests.registry.stepping import PATIENCE_S, Place, Step, Stepper

PUSH_STEPS = {
    "staged": Step("before", "acquire"),
    "leasing": Step("inside", "acquire"),
    "leased": Step("after", "acquire"),
    "placed": Step("before", "<lambda>"),
    "publishing": Step("inside", "<lambda>"),
    "recorded": Step("after", "<lambda>"),
}
GC_STEPS = {
    "leases dropped": Step("after", "<lambda>"),
    "versions freed": Step("after", "_free_some"),
    "condemning": Step("inside", "condemn"),
    "condemned": Step("after", "condemn"),
    "claiming": Step("inside", "take"),
    "claimed": Step("after", "take"),
    "deleted": Step("before", "forget"),
    "forgotten": Step("after", "forget"),
    "adopting": Step("inside", "adopt"),
    "adopted": Step("after", "adopt"),
}
INSIDE = {"leasing", "publishing", "condemning", "claiming", "adopting"}
# Where one must wait for the other, this is how long it is given before the other goes on.
BLOCKED_S = 0.2
LONG = [pytest.mark.slow, pytest.mark.timeout(3600)]
# All of them in one case would take a quarter of an hour, so the long run goes by the moments of the push.
MOMENTS = {
    "before-its-lease": ("staged", "leasing"),
    "under-its-lease": ("leased", "placed"),
    "at-its-end": ("publishing", "recorded"),
}


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


PREPARATIONS = (deleted, deleted_elsewhere, orphaned)


def runs(short, long):
    """The short run takes each `short`-th of all pairs, the long ones each `long`-th of those at two push steps."""
    slices = [pytest.param(steps, long, marks=LONG, id=name) for name, steps in MOMENTS.items()]
    return pytest.mark.parametrize(("steps", "every"), [pytest.param(tuple(PUSH_STEPS), short, id="some"), *slices])


def cases(crash, steps, every):
    """Push step, gc step, what was there before, and who goes on first; each `every`-th."""
    firsts = ("push", "gc") if crash == "none" else ("push",)
    return list(itertools.product(steps, GC_STEPS, PREPARATIONS, firsts))[every // 2 :: every]


def set_up(place, registry, tmp_path, index, case):
    """Both processes, as far towards their steps as they get: the push, gc, and the name that is pushed."""
    push_step, gc_step, prepare, _ = case
    name, source = f"team/pair{index}", make_adapter(tmp_path / f"source{index}", index)
    prepare(registry, source, name)
    deleted(registry, make_adapter(tmp_path / f"other{index}", 1000 + index), "team/other")
    registry._handle.store.put_bytes(f"orphan {index}".encode())  # always work for gc, of both kinds
    push = Stepper(place, PUSH_STEPS[push_step], "push", source, name)
    assert push.until_stopped(), push.answer
    gc = Stepper(place, GC_STEPS[gc_step], "gc")
    gc.until_stopped(BLOCKED_S if push_step in INSIDE else PATIENCE_S)
    return push, gc, source, name


def finish(crash, first, push, gc):
    """The push's reference, None where it was killed; both have ended then."""
    if crash == "push":
        push.die()
        gc.go_on()
        gc.result()
        return None
    if crash == "gc":
        gc.die()
        push.go_on()
        return push.result()
    (push if first == "push" else gc).go_on(patience=BLOCKED_S)
    (gc if first == "push" else push).go_on(patience=BLOCKED_S)
    ref = push.result()
    gc.result()
    return ref


@pytest.fixture
def place(database_url, tmp_path):
    return Place(tmp_path / "home", database_url)


@runs(37, 1)
@pytest.mark.parametrize("crash", ["none", "push", "gc"])
def test_every_pair_of_steps(place, tmp_path, crash, steps, every):
    together = check_pairs(place, tmp_path, cases(crash, steps, every), crash)

    # On SQLite only one of them is inside a transaction; all other pairs stood side by side.
    assert together > 0


@runs(61, 4)
@pytest.mark.parametrize("crash", ["none", "push", "gc"])
def test_pairs_of_steps_with_an_object_store(database_url, s3_url, tmp_path, crash, steps, every):  # noqa: PLR0917 (fixtures)
    """A claim of a dead gc is waited out, so it is short here."""
    place = Place(tmp_path / "home", database_url, s3_url, claim_s=3, margin_s=1)

    assert check_pairs(place, tmp_path, cases(crash, steps, every), crash) > 0


def check_pairs(place, tmp_path, chosen, crash):
    """How many pairs stood at their steps at the same time."""
    registry, together = place.open(), 0
    for index, case in enumerate(chosen):
        push, gc, source, name = set_up(place, registry, tmp_path, index, case)
        together += gc.stopped
        assert gc.stopped or {case[0], case[1]} & INSIDE or gc.ended, case
        ref = finish(crash, case[3], push, gc)
        assert {finding.severity for finding in registry.fsck().findings} <= {"info"}, case
        if ref is None:
            ref = registry.push(source, name).ref
        assert registry.verify(ref).status == "pass", case
    print(f"{len(chosen)} pairs, {together} side by side")
    leave_nothing(place, registry)
    for info in registry.list():
        assert registry.verify(info.ref).status == "pass"
    registry.close()
    return together


def leave_nothing(place, registry):
    """After a last gc nothing is left over. A dead run's claim on an object store ends in its time."""
    if place.store_url is not None:
        time.sleep(place.claim_s + 1)
    registry.gc(grace="0")
    assert registry.fsck().findings == ()
