"""What `plan` and `impact` ask, print, and leave with."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from engine.compat.capacity.plan import Capacity, Forcing, Room, Smaller
from engine.compat.finding import Finding
from registry.planning.hanging import Hanging, HangingResult
from registry.planning.impact import Change, ImpactResult
from registry.planning.plan import PlanResult

ROOM = Capacity(
    max_lora_rank=64,
    max_loras=2,
    max_cpu_loras=3,
    dtype="bfloat16",
    slot_bytes=92_356_608,
    device_bytes=184_713_216,
    host_bytes=1_000_000,
    exact=True,
    base_slot=False,
    layers=226,
    targets=("q_proj", "v_proj"),
    targets_slot_bytes=18_874_368,
    forced_by=(Forcing("t/b@2", 40, "rank_pattern.q_proj", "model.layers.0.q_proj", 32, 16, 16),),
    without=Smaller(16, 23_089_152),
    adapters=(Room("t/a@1", 8, "r", 4_000, 2_000), Room("t/b@2", 40, "rank_pattern.q_proj", 20_000, 10_000)),
)
PLAN = PlanResult("vllm", "0.33", "llama", "pass", 2, ROOM, "vllm serve llama --max-lora-rank 64", (), ("a note",))
DORA = Finding("vllm-dora", "error", "use_dora: found True", target="t/d@1", fix="adapters merge")
CHANGE = Change("t/a@1", ("prod",), "fits", "breaks", breaks=True, new=(replace(DORA, rule="base-shape"),), gone=())
IMPACT = ImpactResult("old", "new", "other", 7, 1, 0, (CHANGE,), ("other weights",))
HANGING = HangingResult(
    "llama",
    2,
    1,
    ("t/m@1",),
    {"checkin": {"pass": 2, "warn": 1}},
    (Hanging("t/a@1", "base", True, ("prod",), ()), Hanging("t/m@1", "lineage", True, (), ("t/a@1", "t/b@1"))),
)


def test_plan_asks_for_what_was_given(adapters):
    done = adapters("plan", "--for", "vllm@0.33.0:max_lora_rank=64", "t/a", "t/b@prod", "--base", "b", plan=PLAN)
    more = adapters(
        *("plan", "--for", "sglang", "--alias", "prod", "--max-loras", "2", "--memory", "8GB", "--dtype", "float16"),
        plan=PLAN,
    )
    nothing: dict[str, Any] = {"base": None, "alias": None, "max_loras": None, "memory": None, "dtype": None}

    assert done.calls == [
        ("plan", ("t/a", "t/b@prod"), {**nothing, "for_engine": "vllm@0.33.0:max_lora_rank=64", "base": "b"})
    ]
    wishes = {"alias": "prod", "max_loras": 2, "memory": "8GB", "dtype": "float16"}
    assert more.calls == [("plan", (), {**nothing, "for_engine": "sglang", **wishes})]


def test_plan_tells_people_the_room_and_who_forces_it(adapters):
    done = adapters("plan", "--for", "vllm", "t/a", plan=PLAN)

    assert done.code == 0
    assert done.out.splitlines() == [
        "engine         vllm 0.33",
        "base           llama",
        "adapters       2 of 2",
        "max_lora_rank  64",
        "max_loras      2",
        "max_cpu_loras  3",
        "slot           92.4 MB (226 layers, bfloat16)",
        "device         185 MB",
        "host           1.00 MB",
        "targets        q_proj v_proj",
        "targets alone  18.9 MB a slot",
        "next smaller   16, 23.1 MB a slot",
        (
            "forced up: t/b@2 asks for 40 by rank_pattern.q_proj (32 modules, first model.layers.0.q_proj); "
            "16 without it, 16 without that"
        ),
        "ADAPTER  RANK  FROM                  STORED   SERVED",
        "t/a@1       8  r                    4.00 kB  2.00 kB",
        "t/b@2      40  rank_pattern.q_proj  20.0 kB  10.0 kB",
        "vllm serve llama --max-lora-rank 64",
    ]
    assert done.err == "note: a note\n"


def test_a_plan_whose_base_is_unknown_says_at_least(adapters):
    room = replace(ROOM, exact=False, base_slot=True, targets_slot_bytes=None)
    done = adapters("plan", "--for", "sglang", "t/a", plan=replace(PLAN, capacity=room))

    assert "slot           at least 92.4 MB" in done.out
    assert "max_loras      2, one of them for the base" in done.out
    assert "targets alone" not in done.out


def test_long_plans_are_cut_for_people_and_whole_in_json(adapters):
    rooms = tuple(Room(f"t/a{n}@1", 8, "r", 1, 1) for n in range(25))
    found = replace(PLAN, capacity=replace(ROOM, adapters=rooms))

    assert "and 5 more adapters; --format json has all" in adapters("plan", "--for", "vllm", plan=found).out
    document = json.loads(adapters("plan", "--for", "vllm", "--format", "json", plan=found).out)
    assert len(document["capacity"]["adapters"]) == 25


def test_plan_in_json_and_quiet(adapters):
    document = json.loads(adapters("plan", "--for", "vllm", "--format", "json", plan=PLAN).out)

    assert document["capacity"]["max_lora_rank"] == 64
    assert document["capacity"]["forced_by"][0] == {
        "ref": "t/b@2",
        "rank": 40,
        "where": "rank_pattern.q_proj",
        "module": "model.layers.0.q_proj",
        "modules": 32,
        "without": 16,
        "without_modules": 16,
    }
    assert (document["command"], document["findings"]) == (PLAN.command, [])
    assert adapters("plan", "--for", "vllm", "--format", "quiet", plan=PLAN).out == f"{PLAN.command}\n"


@pytest.mark.parametrize(("status", "code"), [("pass", 0), ("warn", 0), ("fail", 1), ("inconclusive", 3)])
def test_plan_leaves_with_what_was_found(adapters, status, code):
    assert adapters("plan", "--for", "vllm", plan=replace(PLAN, status=status)).code == code


def test_a_plan_for_nobody_names_why(adapters):
    found = PlanResult("vllm", "0.33", "llama", "fail", 1, None, None, (DORA,), ())
    done = adapters("plan", "--for", "vllm", "t/d", plan=found)

    assert done.code == 1
    assert done.out.splitlines() == [
        "error  vllm-dora  t/d@1: use_dora: found True",
        "       fix: adapters merge",
    ]
    assert adapters("plan", "--for", "vllm", "t/d", "--format", "quiet", plan=found).out == ""


@pytest.mark.parametrize(
    "line",
    [
        "plan",
        "plan t/a",
        "plan --for vllm t/a --alias prod",
        "plan --for vllm --max-loras 0",
        "plan --for vllm --dtype int8",
        "impact",
        "impact --to x",
        "impact --for vllm",
        "impact --base b --for vllm",
        "impact t/a",
    ],
)
def test_half_a_question_is_bad_usage(adapters, line):
    done = adapters(*line.split())

    assert (done.code, done.out, done.calls) == (2, "", [])


def test_impact_asks_for_what_was_given(adapters):
    base = adapters("impact", "--base", "b", impact=HANGING)
    both = adapters("impact", "--base", "b", "--to", "./c", impact=IMPACT)
    engines = adapters("impact", "--for", "vllm@0.31.0", "--to", "vllm", "--base", "b", impact=IMPACT)

    assert [done.calls[0][2] for done in (base, both, engines)] == [
        {"base": "b", "for_engine": None, "to": None},
        {"base": "b", "for_engine": None, "to": "./c"},
        {"base": "b", "for_engine": "vllm@0.31.0", "to": "vllm"},
    ]


def test_impact_tells_what_breaks_and_leaves_with_one(adapters):
    done = adapters("impact", "--base", "old", "--to", "new", impact=IMPACT)

    assert (done.code, done.err) == (1, "warning: other weights\n")
    assert done.out.splitlines() == [
        "old -> new: 1 of 7 versions break, 1 change",
        "t/a@1 (prod)  fits -> breaks",
        "  base-shape  use_dora: found True",
        "    fix: adapters merge",
    ]
    assert adapters("impact", "--base", "o", "--to", "n", "--format", "quiet", impact=IMPACT).out == "t/a@1\n"


@pytest.mark.parametrize(("breaks", "unknown", "code"), [(0, 0, 0), (1, 0, 1), (0, 2, 3), (1, 2, 1)])
def test_impact_leaves_with_what_was_found(adapters, breaks, unknown, code):
    found = replace(IMPACT, breaks=breaks, unknown=unknown)

    assert adapters("impact", "--for", "vllm", "--to", "vllm", impact=found).code == code


def test_impact_of_a_base_alone_lists_what_hangs_on_it(adapters):
    done = adapters("impact", "--base", "llama", impact=HANGING)

    assert done.code == 0
    assert done.out.splitlines() == [
        "base      llama",
        "adapters  2",
        "versions  2",
        "merges    1",
        "aliases   1",
        "checks    checkin 2 pass, 1 warn",
        "VERSION  BY       ALIASES  MERGED FROM",
        "t/a@1    base     prod",
        "t/m@1    lineage           t/a@1 t/b@1",
    ]
    document = json.loads(adapters("impact", "--base", "llama", "--format", "json", impact=HANGING).out)
    assert document["checks"] == {"checkin": {"pass": 2, "warn": 1}}


def test_hostile_text_is_escaped(adapters):
    bad = replace(DORA, message="\x1b[2Jgone\n::error::x", rule="base-shape")
    change = replace(CHANGE, new=(bad,), aliases=("p\x07",))
    done = adapters("impact", "--base", "o", "--to", "n", impact=replace(IMPACT, changes=(change,)))
    forcing = replace(ROOM.forced_by[0], module="m\x1b]0;x")
    plan = adapters("plan", "--for", "vllm", plan=replace(PLAN, capacity=replace(ROOM, forced_by=(forcing,))))

    assert "\x1b" not in done.out + plan.out
    assert "\x07" not in done.out
    assert "\\x1b[2Jgone\\n::error::x" in done.out
