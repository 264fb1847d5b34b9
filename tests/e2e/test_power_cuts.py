"""Whole pushes on an ext4 whose log is cut off mid-write: an acknowledged version survives, alias and bytes included.

The positive controls leave out one measure each and must lose something, or the harness proves nothing.
"""

import fcntl
import os
import signal
import time

import pytest

from registry.errors import RegistryError
from tests.registries import make_adapter, open_registry
from tests.registry.power.publishing import SABOTAGE, publish
from tests.registry.power.test_power import LOSE_THE_LOG, SHUTDOWN, image, make_disk, plugged_in

__all__ = ["image"]

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
CUTS = pytest.mark.parametrize("cuts", [5, pytest.param(150, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])


def push_until_the_cut(home, sources, cut, sabotage):
    """What was acknowledged before the power went: in every other cut right after the last, else amid the next push."""
    wanted = 1 + cut % 4
    hear, speak = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with os.fdopen(speak, "w") as speaker:
                publish(home, sources, wanted if cut % 2 == 0 else 1000, sabotage, speaker)
                time.sleep(60)
        finally:
            os._exit(1)
    os.close(speak)
    with os.fdopen(hear) as heard:
        said = [heard.readline() for _ in range(wanted)]
        time.sleep(0.013 * (cut % 11) if cut % 2 else 0)
        folder = os.open(home.parent, os.O_RDONLY)
        fcntl.ioctl(folder, SHUTDOWN, LOSE_THE_LOG)
        os.close(folder)
        os.kill(child, signal.SIGKILL)
        said += heard.readlines()
    os.waitpid(child, 0)
    assert all(said), "the pusher ended early"
    return [line.split() for line in said if line.endswith("\n")]


def cut_the_power(image, tmp_path, cuts, sabotage=""):
    """How many acknowledged versions are lost once the power is back, of how many."""
    disk, place = image
    open_registry(tmp_path / "warm").push(
        make_adapter(tmp_path / "warm-source"), "team/sql"
    )  # imports, before the forks
    lost = acknowledged = 0
    for cut in range(cuts):
        make_disk(disk, place)
        with plugged_in(disk, place):
            said = push_until_the_cut(place / "home", tmp_path / f"sources{cut}", cut, sabotage)
        with plugged_in(disk, place):
            lost += sum(is_lost(place / "home", tmp_path / f"sources{cut}", *each) for each in said)
            if not sabotage:
                check_the_rest(place / "home", tmp_path / f"sources{cut}", said)
        acknowledged += len(said)
    print(f"{cuts} cuts, {acknowledged} acknowledged, {lost} lost")
    return lost, acknowledged


def is_lost(home, sources, ref, digest):
    number = ref.removeprefix("team/sql@")
    registry = open_registry(home)
    try:
        found = registry.pull_result(ref, to=sources.with_name(f"{sources.name}-pulled-{number}"))
    except RegistryError:
        return True
    finally:
        registry.close()
    wanted = (sources / number).iterdir()
    return found.digest != digest or any((found.path / path.name).read_bytes() != path.read_bytes() for path in wanted)


def check_the_rest(home, sources, said):
    """Not acknowledged, but there: whole. Then the registry works as before and cleans up."""
    registry = open_registry(home)
    findings = registry.fsck().findings
    assert {finding.severity for finding in findings} <= {"info"}, findings
    newest = registry.list()[0].version
    assert newest - len(said) in (0, 1)
    assert registry.get("team/sql@prod").version == newest
    assert registry.push(make_adapter(sources / "after", 10_000), "team/sql").version == newest + 1
    registry.gc(grace="0")
    assert registry.fsck().findings == ()
    registry.close()


@CUTS
def test_no_acknowledged_push_is_lost(image, tmp_path, cuts):
    lost, acknowledged = cut_the_power(image, tmp_path, cuts)

    assert acknowledged >= cuts
    assert lost == 0


@pytest.mark.parametrize("sabotage", SABOTAGE)
def test_the_harness_sees_a_missing_measure(image, tmp_path, sabotage):
    lost, _ = cut_the_power(image, tmp_path, 3, sabotage)

    assert lost > 0
