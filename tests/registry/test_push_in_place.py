"""Large weights go to S3 without a copy: whatever happens to them or to the push meanwhile, nothing wrong is ever seen."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from registry import push
from registry.errors import FindingsError, IntakeError
from registry.files import partsums
from registry.store.bucket import bucket as buckets
from registry.store.bucket import checkedparts, uploads
from registry.store.bucket.multiparts import s3_client
from tests.registries import factors, make_adapter, open_registry
from tests.registry.stepping import Place, processes

MIB = 1 << 20
PART = 8 * MIB
WEIGHTS = "adapter_model.safetensors"
Q_PROJ = "base_model.model.model.layers.0.self_attn.q_proj"
CHANGED = f"{WEIGHTS}: changed while it was pushed"


@pytest.fixture
def proxy(proxy):
    proxy.comparing = True
    return proxy


@pytest.fixture
def registry(s3_url, s3_server, proxy, tmp_path, monkeypatch):
    """One to whose store all weights are large; a part goes after the other."""
    monkeypatch.setattr(partsums, "LARGE", MIB)
    monkeypatch.setattr(partsums, "PART", PART)
    monkeypatch.setattr(checkedparts, "_STREAMS", 1)
    monkeypatch.setattr(buckets, "_FIRST_WAIT", 0.01)
    opened = open_registry(tmp_path / "home", store_url=s3_url.replace(s3_server, proxy.address))
    opened.init()
    proxy.clear()
    yield opened
    opened.close()


@pytest.fixture
def adapter(tmp_path):
    """Weights of 32 MB, in four parts."""
    draw = np.random.default_rng(7).standard_normal
    large = {f"{Q_PROJ}.lora_A.weight": draw((2, 2 * 10**6)), f"{Q_PROJ}.lora_B.weight": draw((2 * 10**6, 2))}
    large = {name: tensor.astype(np.float32) for name, tensor in large.items()}
    return make_adapter(tmp_path / "adapter", tensors=factors(0) | large)


def real_parts(proxy):
    """The numbers of the parts that came after the two small ones that ask."""
    sent = [one.path for one in proxy.requests if one.method == "PUT" and "partNumber=" in one.path]
    return [int(path.partition("partNumber=")[2].partition("&")[0]) for path in sent[2:]]


def when_part_comes(proxy, number, action):
    """Once, when the store has been asked for that part and before it answers."""
    done = []

    def plan(request):
        if not done and real_parts(proxy)[-1:] == [number]:
            done.append(action())

    proxy.plan = plan
    return done


def flip_last(path, *, back_in_time=False):
    """Another last byte, in place."""
    known = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    if back_in_time:
        os.utime(path, ns=(known.st_atime_ns, known.st_mtime_ns))


def unfinished(registry):
    bucket = registry._handle.store.bucket
    client = s3_client(bucket.url, tries=1)
    return client.list_multipart_uploads(Bucket=bucket.url.bucket).get("Uploads", [])


def nothing_is_seen(registry, adapter):
    """No version, no object of these weights, no upload, no folder; pushed again, all is well."""
    assert registry.list() == []
    sizes = [blob.size for blob in registry._handle.store.list()]
    assert [size for size in sizes if size > PART] == []
    assert unfinished(registry) == []
    assert list(registry._handle.store.staging_root.glob("*")) == []
    assert {finding.severity for finding in registry.fsck().findings} <= {"info"}
    is_pushed(registry, adapter)


def is_pushed(registry, adapter):
    """It becomes version 1, and what is pulled are its bytes."""
    assert registry.push(adapter, "team/large").ref == "team/large@1"
    pulled = registry.pull("team/large")
    assert (pulled / WEIGHTS).read_bytes() == (adapter / WEIGHTS).read_bytes()


def test_nothing_is_copied(registry, adapter, proxy):
    """Looked at while the first part goes: the staging folder has the config and the manifest."""

    def look():
        return sorted(path.name for path in registry._handle.store.staging_root.rglob("*") if path.is_file())

    seen = when_part_comes(proxy, 1, look)
    is_pushed(registry, adapter)

    assert {"adapter_config.json", "manifest"} <= set(seen[0])
    assert WEIGHTS not in seen[0]
    assert real_parts(proxy) == [1, 2, 3, 4]


def test_it_is_held_open_all_the_time(registry, adapter, proxy):
    """Where nobody has a file open, a FUSE file system may give it another number; here when the last part went."""

    def held():
        return [link for link in Path("/proc/self/fd").iterdir() if link.resolve() == adapter / WEIGHTS]

    seen = when_part_comes(proxy, 4, held)
    registry.push(adapter, "team/large")

    assert len(seen[0]) == 2  # the one that is sent from is the other
    assert held() == []


def test_it_is_the_version_that_a_copying_push_makes(registry, adapter, monkeypatch):
    """Facts, norms and digests: pushed as small weights, it is the same content."""
    first = registry.push(adapter, "team/large")
    monkeypatch.setattr(partsums, "LARGE", 1 << 40)
    second = registry.push(adapter, "team/twin")

    assert (second.digest, second.tensors_digest) == (first.digest, first.tensors_digest)
    shown = [registry.show(ref) for ref in ("team/large", "team/twin")]
    assert shown[0].modules == shown[1].modules
    assert shown[0].files == shown[1].files


class TestChangedMeanwhile:
    def test_after_it_was_hashed(self, registry, adapter, monkeypatch):
        looked = push.examine

        def change_and_look(folder, **options):
            flip_last(adapter / WEIGHTS)
            return looked(folder, **options)

        with monkeypatch.context() as patch:
            patch.setattr(push, "examine", change_and_look)
            with pytest.raises(IntakeError, match=CHANGED) as caught:
                registry.push(adapter, "team/large")

        assert caught.value.exit_code == 2
        nothing_is_seen(registry, adapter)

    def test_so_that_it_cannot_be_read_any_more(self, registry, adapter, monkeypatch):
        """It is the change that is told, not what the half of a file looks like."""
        looked = push.examine

        def truncate_and_look(folder, **options):
            os.truncate(adapter / WEIGHTS, 9 * MIB)
            return looked(folder, **options)

        whole = (adapter / WEIGHTS).read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(push, "examine", truncate_and_look)
            with pytest.raises(IntakeError, match=CHANGED):
                registry.push(adapter, "team/large")

        (adapter / WEIGHTS).write_bytes(whole)
        nothing_is_seen(registry, adapter)

    def test_after_it_was_looked_at(self, registry, adapter, proxy):
        """When the store is asked whether it has the object."""
        heads = []

        def plan(request):
            if request.method == "HEAD" and not heads:
                heads.append(flip_last(adapter / WEIGHTS))

        proxy.plan = plan
        with pytest.raises(IntakeError, match=CHANGED):
            registry.push(adapter, "team/large")

        assert real_parts(proxy) == []
        proxy.clear()
        nothing_is_seen(registry, adapter)

    @pytest.mark.parametrize("back_in_time", [False, True])
    @pytest.mark.parametrize("number", [1, 3])
    def test_while_its_parts_are_sent(self, registry, adapter, proxy, number, back_in_time):
        """The last part is then another than was hashed: the store refuses it by its sum."""
        when_part_comes(proxy, number, lambda: flip_last(adapter / WEIGHTS, back_in_time=back_in_time))
        with pytest.raises(IntakeError, match=CHANGED):
            registry.push(adapter, "team/large")

        assert real_parts(proxy) == [1, 2, 3, 4]
        proxy.clear()
        nothing_is_seen(registry, adapter)

    def test_while_it_goes_to_a_store_that_compares_nothing(self, registry, adapter, proxy, monkeypatch):
        """By obstore then: hashed again on its way, and the last part kept back."""
        monkeypatch.setattr(uploads, "_STREAMS", 1)
        proxy.comparing = False
        puts = []

        def plan(request):
            puts.extend([request] if request.method == "PUT" and "partNumber=" in request.path else [])
            if len(puts) == 2:  # the first one asked
                flip_last(adapter / WEIGHTS)

        proxy.plan = plan
        with pytest.raises(IntakeError, match=CHANGED):
            registry.push(adapter, "team/large")

        proxy.clear()
        nothing_is_seen(registry, adapter)

    def test_what_is_saved_anew_after_it_was_sent_does_not_matter(self, registry, adapter, proxy):
        """The version is what was hashed."""
        before = (adapter / WEIGHTS).read_bytes()
        when_part_comes(proxy, 4, lambda: flip_last(adapter / WEIGHTS))

        assert registry.push(adapter, "team/large").ref == "team/large@1"

        assert (registry.pull("team/large") / WEIGHTS).read_bytes() == before


class TestEnds:
    def test_what_a_rule_refuses_is_not_sent(self, registry, adapter, tmp_path, proxy):
        spoiled = make_adapter(tmp_path / "nan", tensors=factors(0) | {f"{Q_PROJ}.lora_A.weight": nan_factor()})

        with pytest.raises(FindingsError):
            registry.push(spoiled, "team/large")

        assert real_parts(proxy) == []
        nothing_is_seen(registry, adapter)

    def test_an_interrupt_ends_it_within_a_part(self, registry, adapter, proxy):
        when_part_comes(proxy, 2, lambda: os.kill(os.getpid(), signal.SIGINT))

        with pytest.raises(KeyboardInterrupt):
            registry.push(adapter, "team/large")

        assert real_parts(proxy) == [1, 2]
        proxy.clear()
        nothing_is_seen(registry, adapter)

    @pytest.mark.parametrize("number", [1, 4])
    def test_a_kill_leaves_what_gc_removes(self, registry, adapter, proxy, number):
        """moto says of every upload that it began in 2010: a day has passed."""
        settings = registry.settings
        child = processes.Process(target=push_in_parts, args=(settings.home, settings.store_url, adapter))
        when_part_comes(proxy, number, lambda: os.kill(child.pid, signal.SIGKILL))
        child.start()
        child.join()

        assert child.exitcode == -signal.SIGKILL
        assert len(unfinished(registry)) == 1
        assert {finding.severity for finding in registry.fsck().findings} <= {"info"}
        proxy.clear()
        registry.gc(grace="0")
        nothing_is_seen(registry, adapter)


def push_in_parts(home, store_url, adapter):
    """What a process of its own does, to which the fixtures' patches are unknown."""
    partsums.LARGE, partsums.PART, checkedparts._STREAMS = MIB, PART, 1
    Place(home, "sqlite", store_url).open().push(adapter, "team/large")


def nan_factor():
    factor = np.ones((2, 2 * 10**6), dtype=np.float32)
    factor[1, 77] = np.nan
    return factor
