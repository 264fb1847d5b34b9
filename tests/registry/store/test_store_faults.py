"""Every request of a push and of a pull meets every fault: done, refused, or unknown with the command that asks again.

Never a wrong byte, never a second version, whatever the network and a busy server do.
"""

import hashlib
import json
from contextlib import suppress

import obstore
import pytest
from sqlalchemy import select

from engine.errors import EngineError
from registry.collecting.protection import protected
from registry.errors import RegistryError
from registry.files.disk import discard_tree
from registry.models import Blob
from registry.store.bucket import bucket as buckets
from tests.faultproxy import FAULTS
from tests.registries import make_adapter, open_registry

# what a server in front of which something is broken goes on doing, request after request
LASTING = ("refused", "500", "409", "412", "forbidden", "skewed", "spoiled-request")


class World:
    """A registry whose store is behind the proxy, an adapter, and what a push of it must have made."""

    def __init__(self, home, proxy, url, adapter):
        self.home, self.proxy, self.url, self.adapter = home, proxy, url, adapter

    def __enter__(self):
        self.registry = open_registry(self.home, store_url=self.url)
        return self

    def __exit__(self, *error):
        self.registry.close()

    def requests_of(self, action):
        self.proxy.clear()
        action()
        return len(self.proxy.requests)

    def push(self):
        return self.registry.push(self.adapter, "team/sql")

    def pull(self, place):
        """From the store: what an earlier pull kept is forgotten."""
        if self.registry.settings.pulled.exists():
            discard_tree(self.registry.settings.pulled)
        return self.registry.pull("team/sql", to=place)

    def is_right(self, place):
        """Exactly one version, with the pushed bytes; what was interrupted left no more than orphans and a probe."""
        self.proxy.clear()
        assert [info.ref for info in self.registry.list(all_versions=True)] == ["team/sql@1"]
        self.pull(place)
        for path in self.adapter.iterdir():
            assert (place / path.name).read_bytes() == path.read_bytes()
        assert {finding.id for finding in self.registry.fsck().findings} <= {"orphan-blob", "stray-file"}


@pytest.fixture
def worlds(s3_url, s3_server, proxy, tmp_path, monkeypatch, sqlite_template):  # noqa: PLR0917 (fixtures)
    """Fresh worlds, each with a prefix of its own."""
    monkeypatch.setattr(buckets, "TRIES", 2)
    monkeypatch.setattr(buckets, "_FIRST_WAIT", 0.001)
    adapter = make_adapter(tmp_path / "adapter")

    def make(name):
        home = tmp_path / name
        home.mkdir()
        (home / "catalog.db").write_bytes(sqlite_template.read_bytes())
        url = s3_url.replace(s3_server, proxy.address).replace("team/registry", f"team/{name}")
        return World(home, proxy, url, adapter)

    return make


def outcome(action):
    """`done`, or the error: it is one of ours, has an exit code of the contract, and is no bug."""
    try:
        action()
    except (RegistryError, EngineError) as error:
        assert error.exit_code in (1, 5, 6, 7), error
        return error
    return "done"


def stored(world):
    return {blob.digest for blob in world.registry._handle.store.list()}


def weights_of(world):
    content = (world.adapter / "adapter_model.safetensors").read_bytes()
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def spoil_one(world):
    """The digest of a blob whose object now holds other bytes."""
    digest, bucket = weights_of(world), world.registry._handle.store.bucket
    obstore.put(bucket.client, f"sha256/{digest[7:9]}/{digest[7:]}", b"other")
    return digest


def sweep_push(worlds, tmp_path, fault, numbers=None, every=1):
    with worlds("counting") as world:
        count = world.requests_of(world.push)
    results = []
    for number in numbers or range(every // 2, count, every):
        with worlds(f"at{number}") as world:
            world.proxy.clear()
            world.proxy.spoil = lambda body: body[::-1]
            world.proxy.plan = lambda request, number=number: fault if request.number == number else None
            result = outcome(world.push)
            results.append("done" if result == "done" else "refused")
            if result != "done":
                assert result.hint, result
                world.proxy.clear()
                assert world.push().version == 1  # asked again, as the hint says
            world.is_right(tmp_path / f"pulled{number}")
    return results


def sweep_pull(worlds, tmp_path, fault):
    with worlds("pulled") as world:
        world.push()
        count = world.requests_of(lambda: world.pull(tmp_path / "counting"))
        results = []
        for number in range(count):
            place = tmp_path / f"at{number}"
            world.proxy.clear()
            world.proxy.spoil = lambda body: body[::-1]
            world.proxy.plan = lambda request, number=number: fault if request.number == number else None
            result = outcome(lambda place=place: world.pull(place))
            results.append("done" if result == "done" else "refused")
            assert place.exists() == (result == "done")
            world.is_right(tmp_path / f"again{number}")
    return results


class TestOneFault:
    """Tried again where it may pass, so that nobody hears of it."""

    def test_every_third_request_of_a_push_survives(self, worlds, tmp_path):
        """Each of them, and of all other faults, in the long run."""
        found = sweep_push(worlds, tmp_path, "lost", every=3)

        assert len(found) > 2
        assert set(found) == {"done"}

    @pytest.mark.parametrize("fault", ["refused", "cut", "503"])
    def test_every_request_of_a_pull_survives(self, worlds, tmp_path, fault):
        assert set(sweep_pull(worlds, tmp_path, fault)) == {"done"}

    @pytest.mark.slow
    @pytest.mark.parametrize("fault", [*FAULTS, "forbidden", "skewed", "spoiled", "spoiled-request"])
    def test_every_request_of_a_push_meets_every_fault(self, worlds, tmp_path, fault):
        results = sweep_push(worlds, tmp_path, fault)

        if fault not in {"412", "forbidden", "skewed", "spoiled", "spoiled-request"}:
            assert set(results) == {"done"}

    @pytest.mark.slow
    @pytest.mark.parametrize("fault", [*FAULTS, "forbidden", "skewed", "spoiled"])
    def test_every_request_of_a_pull_meets_every_fault(self, worlds, tmp_path, fault):
        results = sweep_pull(worlds, tmp_path, fault)

        if fault not in {"412", "forbidden", "skewed", "spoiled"}:
            assert set(results) == {"done"}


class TestLastingFaults:
    @pytest.mark.parametrize("fault", LASTING)
    def test_a_push_is_refused_and_done_when_asked_again(self, worlds, tmp_path, fault):
        with worlds("lasting") as world:
            world.proxy.spoil = lambda body: body[::-1]
            world.proxy.plan = lambda request: fault

            result = outcome(world.push)

            assert result != "done"
            assert result.hint
            world.proxy.clear()
            assert not world.registry.list(all_versions=True)
            assert world.push().version == 1
            world.is_right(tmp_path / "pulled")

    def test_uploads_spoiled_on_the_way_are_refused_before_a_row_names_them(self, worlds, tmp_path):
        with worlds("spoiled") as world:
            world.push()
            before = stored(world)
            other = make_adapter(tmp_path / "other", seed=9)
            world.proxy.spoil = lambda body: body[::-1]
            world.proxy.plan = lambda request: "spoiled-request" if request.method == "PUT" else None

            result = outcome(lambda: world.registry.push(other, "team/other"))

            assert result.exit_code == 6
            assert "run the same command again" in result.hint
            world.proxy.clear()
            assert [info.ref for info in world.registry.list(all_versions=True)] == ["team/sql@1"]
            assert stored(world) <= before
            with world.registry._handle.database.reading() as session:
                assert session.scalars(select(Blob.digest).where(Blob.state == "deleting")).all() == []

    def test_what_a_version_names_stays_though_it_was_spoiled(self, worlds):
        """P3: it is wrong until the next push of it, and never missing."""
        with worlds("spoiled-again") as world:
            world.push()
            digest = spoil_one(world)
            world.proxy.plan = lambda request: "spoiled-request" if request.method == "PUT" else None
            world.proxy.spoil = lambda body: body[::-1]

            assert outcome(world.push).exit_code == 6

            world.proxy.clear()
            assert digest in stored(world)
            assert not world.push().created
            assert world.registry.fsck().status == "pass"

    def test_what_another_push_has_leased_stays(self, worlds):
        with worlds("spoiled-leased") as world:
            (world.home / "staging").mkdir()
            handle, digest = world.registry._handle, weights_of(world)
            world.proxy.spoil = lambda body: body[::-1]
            world.proxy.plan = lambda request: (
                "spoiled-request" if request.method == "PUT" and digest[7:] in request.path else None
            )
            with suppress(ZeroDivisionError), protected(handle, world.home / "staging" / "other.tmp", [digest]):
                assert outcome(world.push).exit_code == 6
                assert digest in stored(world)
                raise ZeroDivisionError  # what ends that push's lease

            assert outcome(world.push).exit_code == 6
            assert digest not in stored(world)

    @pytest.mark.parametrize("fault", ["refused", "503", "forbidden", "cut", "spoiled"])
    def test_a_pull_leaves_nothing_and_goes_well_when_asked_again(self, worlds, tmp_path, fault):
        with worlds("lasting") as world:
            world.push()
            world.proxy.spoil = lambda body: body[::-1]
            world.proxy.plan = lambda request: fault

            assert outcome(lambda: world.pull(tmp_path / "out")) != "done"

            assert not (tmp_path / "out").exists()
            world.is_right(tmp_path / "out")


class TestFirstUse:
    def test_a_marker_that_arrived_garbled_does_not_keep_everybody_out(self, worlds, tmp_path):
        with worlds("garbled") as world:
            world.proxy.spoil = lambda body: body[::-1]
            world.proxy.plan = lambda request: (
                "spoiled-request"
                if (request.method, request.path.rpartition("/")[2]) == ("PUT", "registry.json")
                else None
            )

            error = outcome(world.push)

            assert "its registry.json did not arrive as it was sent" in str(error)
            assert (error.exit_code, error.hint) == (7, "run the same command again")
            world.proxy.clear()
            assert world.push().version == 1
            world.is_right(tmp_path / "pulled")

    def test_a_clock_one_hour_off_is_named(self, worlds):
        with worlds("skewed") as world:
            world.proxy.headers["last-modified"] = "Sun, 22 Nov 2020 07:00:00 GMT"

            error = outcome(world.registry.init)

            assert "its clock and the database's are" in str(error)
            assert error.exit_code == 7
            assert "its clock and the database's are" in str(outcome(world.push))  # also where init was never run

    def test_a_bucket_that_may_only_be_read_is_named(self, worlds):
        with worlds("readonly") as world:
            world.proxy.plan = lambda request: "forbidden" if request.method in ("PUT", "POST", "DELETE") else None

            error = outcome(world.registry.init)

            assert "not permitted (403 AccessDenied), when a small object was written" in str(error)
            assert "credentials come from AWS_ACCESS_KEY_ID" in error.hint

    def test_a_bucket_that_lets_nothing_be_deleted_is_named(self, worlds):
        with worlds("undeletable") as world:
            world.proxy.plan = lambda request: "forbidden" if "?delete" in request.path else None

            assert "when a small object was deleted" in str(outcome(world.registry.init))

    def test_a_store_that_ignores_ranges_is_named(self, worlds):
        with worlds("ranges") as world:
            world.proxy.spoil = lambda body: b"x" * len(body)
            world.proxy.plan = lambda request: (
                "spoiled" if request.method == "GET" and "probe/" in request.path else None
            )

            assert "does not answer a range of bytes" in str(outcome(world.registry.init))

    def test_the_probe_leaves_only_the_marker(self, worlds):
        with worlds("clean") as world:
            world.registry.init()

            assert list(world.registry._handle.store.strays()) == []
            content = world.registry._handle.store._objects()
            assert [name for name, _, _ in content] == ["registry.json"]

    def test_the_probe_is_made_once(self, worlds):
        with worlds("once") as world:
            world.registry.init()
        with World(world.home, world.proxy, world.url, world.adapter) as again:
            again.proxy.clear()
            again.push()

            assert not [request for request in again.proxy.requests if "probe/" in request.path]

    def test_a_marker_of_something_else_is_a_conflict(self, worlds):
        import obstore

        with worlds("foreign") as world:
            obstore.put(world.registry._handle.store.bucket.client, "registry.json", json.dumps([1]).encode())

            error = outcome(world.push)

            assert (error.exit_code, "is no registry's" in str(error)) == (5, True)

    def test_a_catalog_without_an_id_takes_over_the_store_that_it_was_rebuilt_from(
        self, worlds, tmp_path, sqlite_template
    ):
        from registry.store.bucket.claim import take_over

        with worlds("lost") as world:
            world.push()
        (world.home / "catalog.db").write_bytes(sqlite_template.read_bytes())
        with World(world.home, world.proxy, world.url, world.adapter) as rebuilt:
            handle = rebuilt.registry._handle
            take_over(handle.store.bucket, handle.database)

            assert rebuilt.push().version == 1
            assert outcome(rebuilt.registry.init) == "done"
