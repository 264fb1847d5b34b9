"""Any order of calls: after each one the outputs are those of a fresh model with just these adapters on it."""

import random
import threading
from contextlib import suppress

import pytest
import torch

from engine.errors import EngineError, SlotsFullError
from engine.model.runtime import Runtime
from tests.engine.model.live import llama, lora_folder

IDS = torch.arange(12).reshape(3, 4)
NAMES = ("a", "ab", "lora", "lin", "q_proj", "a.b")
SETTINGS = {
    "small": {"r": 2, "target_modules": ["q_proj"]},
    "rslora": {"r": 5, "target_modules": ["q_proj", "v_proj"], "use_rslora": True},
    "dora": {"r": 3, "target_modules": ["v_proj", "down_proj"], "use_dora": True},
    "table": {"r": 2, "target_modules": ["embed_tokens"]},
    "head": {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "patterns": {"r": 3, "target_modules": ["up_proj", "q_proj"], "alpha_pattern": {"q_proj": 1}},
}


def small():
    return llama(num_hidden_layers=1)


def logits(call, **inputs):
    with torch.no_grad():
        return call(IDS, use_cache=False, **inputs).logits


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root, model = tmp_path_factory.mktemp("walk"), small()
    return {key: lora_folder(root / key, model, seed=seed, **one) for seed, (key, one) in enumerate(SETTINGS.items())}


@pytest.fixture(scope="module")
def fresh(folders):
    """The outputs with (folder, factor) pairs on, each from a model and a runtime that never saw anything else."""
    known = {(): logits(small())}

    def outputs(*pairs):
        if pairs not in known:
            runtime = Runtime(small())
            for place, (key, factor) in enumerate(pairs):
                runtime.load(f"n{place}", folders[key])
                runtime.set_scale(f"n{place}", factor)
            runtime.activate([f"n{place}" for place in range(len(pairs))])
            known[pairs] = logits(runtime)
        return known[pairs]

    return outputs


class Walk:
    """A runtime and what must be true of it: what every name stands for, and what is on."""

    def __init__(self, folders, seed):
        self.folders = folders
        self.chance = random.Random(seed)
        self.model = small()
        room = {"target_rank": self.chance.choice((None, 8)), "host_bytes": self.chance.choice((None, 0, 20_000))}
        self.runtime = Runtime(self.model, slots=self.chance.choice((1, 2, 3)), **room)
        self.loaded = {}
        self.active = ()
        self.merged = ()
        self.swaps = []
        self.on = True

    def step(self):
        """One call; one that fails leaves the status, and what must be true, as they were."""
        before = self.told()
        name, key = self.chance.choice(NAMES), self.chance.choice(list(self.folders))
        call = self.chance.choice(CALLS)
        try:
            call(self, name, key)
        except EngineError:
            assert self.told() == before, call.__name__

    def told(self):
        status = self.runtime.status()
        adapters = [(one.name, one.version, one.slot, one.factor, one.pinned) for one in status.adapters]
        return adapters, status.active, status.merged, status.enabled

    def expected(self):
        if self.merged:
            return self.merged
        return tuple(self.loaded[name] for name in self.active) if self.on else ()


def load(walk, name, key):
    walk.runtime.load(name, walk.folders[key], pinned=walk.chance.random() < 0.2)
    walk.loaded[name] = (key, 1.0)


def swap(walk, name, key):
    done = walk.runtime.swap(name, walk.folders[key])
    walk.swaps.append((done, walk.loaded[name]))
    walk.loaded[name] = (key, walk.loaded[name][1])


def undo(walk, *_):
    if walk.swaps:
        done, was = walk.swaps.pop()
        walk.runtime.undo(done)
        walk.loaded[done.name] = was


def unload(walk, name, _):
    walk.runtime.unload(name)
    del walk.loaded[name]


def activate(walk, *_):
    names = tuple(walk.chance.sample(NAMES, walk.chance.randint(0, 2)))
    walk.runtime.activate(names)
    walk.active = names


def scale(walk, name, _):
    factor = walk.chance.choice((0.0, 0.5, 1.0, -2.0))
    walk.runtime.set_scale(name, factor)
    walk.loaded[name] = (walk.loaded[name][0], factor)


def pin(walk, name, _):
    (walk.runtime.pin if walk.chance.random() < 0.4 else walk.runtime.unpin)(name)


def turn(walk, *_):
    walk.on = walk.chance.random() < 0.6
    (walk.runtime.enable if walk.on else walk.runtime.disable)()


def merge(walk, name, _):
    walk.runtime.merge(name)
    walk.merged = (walk.loaded[name],)


def unmerge(walk, *_):
    walk.runtime.unmerge()
    walk.merged = ()


def batch(walk, _, key):
    """Rows of any names, one of which may be swapped before they run: they keep what they began with."""
    names = [walk.chance.choice((*walk.loaded, "__base__")) for _ in range(3)]
    with walk.runtime.batch(names):
        walk.rows = [walk.loaded.get(name) if walk.on else None for name in names]
        if walk.loaded and walk.chance.random() < 0.4:
            with suppress(SlotsFullError):
                swap(walk, walk.chance.choice(list(walk.loaded)), key)
        walk.found = logits(walk.model)


CALLS = (load, load, swap, undo, unload, activate, activate, scale, pin, turn, merge, unmerge, unmerge, batch, batch)


def walked(folders, fresh, seed, steps):
    walk, base = Walk(folders, seed), fresh()
    weights = {name: one.clone() for name, one in walk.model.state_dict().items()}
    for _ in range(steps):
        walk.rows, walk.found = [], None
        walk.step()
        for row, pair in enumerate(walk.rows):
            if pair is None:
                assert torch.equal(walk.found[row], base[row])
            else:
                torch.testing.assert_close(walk.found[row], fresh(pair)[row], rtol=1e-4, atol=3e-4)
        torch.testing.assert_close(logits(walk.model), fresh(*walk.expected()), rtol=1e-3, atol=5e-4)
        assert walk.merged or all(torch.equal(weights[name], one) for name, one in walk.model.state_dict().items())
    assert torch.equal(logits(walk.runtime.detach()), base)


@pytest.mark.parametrize("seed", range(6))
def test_any_order_of_calls_gives_what_a_fresh_runtime_gives(folders, fresh, seed):
    walked(folders, fresh, seed, 40)


@pytest.mark.slow
def test_many_orders_of_calls_give_what_a_fresh_runtime_gives(folders, fresh):
    for seed in range(100, 200):
        walked(folders, fresh, seed, 60)


def together(*works):
    """Run all of it at once for two seconds; gives what went wrong."""
    stop, wrong = threading.Event(), []

    def loop(work):
        while not stop.is_set():
            try:
                work()
            except SlotsFullError:
                continue
            except Exception as error:  # noqa: BLE001 - the test asserts that there is none
                wrong.append(error)
                return

    threads = [threading.Thread(target=loop, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    stop.wait(2)
    stop.set()
    for thread in threads:
        thread.join()
    return wrong


def test_threads_with_batches_of_their_own_beside_swaps_and_loads(folders, fresh):
    runtime = Runtime(small(), slots=3, target_rank=8)
    keys = ("small", "rslora", "dora")
    for key in keys:
        runtime.load(key, folders[key])
    runtime.load("x", folders["small"])
    expected = {key: fresh((key, 1.0)) for key in keys} | {"__base__": fresh()}
    chances = {place: random.Random(place) for place in range(3)}

    def rows(place):
        names = [chances[place].choice([*keys, "x", "__base__"]) for _ in range(3)]
        found = logits(runtime, adapter_names=names)
        for row, name in enumerate(names):
            among = [expected[name]] if name != "x" else [expected[key] for key in keys]
            assert any(torch.allclose(found[row], one[row], rtol=1e-4, atol=3e-4) for one in among), names

    def change():
        runtime.swap("x", folders[chances[2].choice(keys)])

    def come_and_go():
        runtime.load("guest", folders["rslora"])
        runtime.unload("guest")

    wrong = together(lambda: rows(0), lambda: rows(1), change, come_and_go)

    assert not wrong
    assert not any(one.running for one in runtime.status().adapters)


def test_slots_that_grow_under_running_forwards_change_no_result(folders, fresh):
    runtime = Runtime(small(), slots=4)
    runtime.load("small", folders["small"])
    expected, base = fresh(("small", 1.0)), fresh()
    queue = [key for key in folders if key != "small"]

    def rows():
        found = logits(runtime, adapter_names=["small", "__base__", "small"])
        torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=3e-4)
        assert torch.equal(found[1], base[1])

    def grow():
        if queue:
            runtime.load(queue[0], folders[queue.pop(0)])

    assert not together(rows, rows, grow)
    assert not queue
