"""Whole pushes on disks whose log is cut off mid-write: an acknowledged version survives, alias and bytes included.

On ext4 and xfs, with blobs and catalog on one disk and on two; of two, the first, the second or both lose their power.

The positive controls leave out one measure each and must lose something, or the harness proves nothing.
"""

import os
import signal
import time

import pytest

from registry.errors import RegistryError
from tests.registries import make_adapter, open_registry
from tests.registry.power.disks import all_plugged_in, disks
from tests.registry.power.publishing import SABOTAGE, open_across, publish

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
CUTS = pytest.mark.parametrize("cuts", [4, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])


@pytest.fixture(params=[("ext4", 1), ("ext4", 2), ("xfs", 1), ("xfs", 2)], ids=lambda given: "{}-{}".format(*given))
def several(request):
    """One disk for all, or one for the home with its blobs and one for the catalog."""
    kind, count = request.param
    with disks(kind, count) as found:
        yield found


def push_until_the_cut(several, sources, cut, sabotage):
    """What was acknowledged before the power went: in every other cut right after the last, else amid the next push."""
    wanted = 1 + cut % 4
    hear, speak = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with os.fdopen(speak, "w") as speaker:
                publish(several, sources, wanted if cut % 2 == 0 else 1000, sabotage, speaker)
                time.sleep(60)
        finally:
            os._exit(1)
    os.close(speak)
    with os.fdopen(hear) as heard:
        said = [heard.readline() for _ in range(wanted)]
        time.sleep(0.013 * (cut % 11) if cut % 2 else 0)
        for disk in losing_power(several, cut):
            disk.cut()
        os.kill(child, signal.SIGKILL)
        said += heard.readlines()
    os.waitpid(child, 0)
    assert all(said), "the pusher ended early"
    return [line.split() for line in said if line.endswith("\n")]


def losing_power(several, cut):
    """In turn all of them, the first, the last: a disk in the network may live on."""
    return (several, several[:1], several[-1:])[cut // 2 % 3]


def cut_the_power(several, tmp_path, cuts, sabotage=""):
    """How many acknowledged versions, or parts of them, are lost once the power is back, of how many."""
    open_registry(tmp_path / "warm").push(
        make_adapter(tmp_path / "warm-source"), "team/sql"
    )  # imports, before the forks
    lost = acknowledged = 0
    for cut in range(cuts):
        for disk in several:
            disk.make()
        with all_plugged_in(several):
            said = push_until_the_cut(several, tmp_path / f"sources{cut}", cut, sabotage)
        with all_plugged_in(several):
            lost += sum(is_lost(several, tmp_path / f"sources{cut}", *each) for each in said)
            if sabotage:
                lost += len(worse_than_leftovers(several))
            else:
                check_the_rest(several, tmp_path / f"sources{cut}", said)
        acknowledged += len(said)
    print(f"{cuts} cuts, {acknowledged} acknowledged, {lost} lost")
    return lost, acknowledged


def is_lost(several, sources, ref, digest):
    number = ref.removeprefix("team/sql@")
    registry = open_across(several)
    try:
        found = registry.pull_result(ref, to=sources.with_name(f"{sources.name}-pulled-{number}"))
    except RegistryError:
        return True
    finally:
        registry.close()
    wanted = (sources / number).iterdir()
    return found.digest != digest or any((found.path / path.name).read_bytes() != path.read_bytes() for path in wanted)


def worse_than_leftovers(several):
    """Of a push's blobs its record is renamed last, which no pull asks for: fsck does."""
    registry = open_across(several)
    try:
        return [finding for finding in registry.fsck().findings if finding.severity != "info"]
    except RegistryError as error:  # the whole store or catalog
        return [error]
    finally:
        registry.close()


def check_the_rest(several, sources, said):
    """Not acknowledged, but there: whole. Then the registry works as before and cleans up."""
    registry = open_across(several)
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
def test_no_acknowledged_push_is_lost(several, tmp_path, cuts):
    lost, acknowledged = cut_the_power(several, tmp_path, cuts)

    assert acknowledged >= cuts
    assert lost == 0


@pytest.mark.parametrize("sabotage", SABOTAGE)
def test_the_harness_sees_a_missing_measure(tmp_path, sabotage):
    """On two disks, since on one the catalog's own syncs carry the blobs' folders along."""
    with disks("ext4", 2) as several:
        lost, _ = cut_the_power(several, tmp_path, 3, sabotage)

    assert lost > 0
