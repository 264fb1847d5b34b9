"""What `materialize` and `artifacts` ask and print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from engine.compat.finding import Finding
from registry.artifacts.results import (
    ArtifactCheck,
    ArtifactDetail,
    ArtifactInfo,
    ArtifactPlace,
    MaterializeResult,
    RebuildResult,
    RemovedArtifact,
)
from registry.cli.shown.output import note
from registry.errors import CorruptError, NotFoundError
from tests.registry.cli.stub import AT, DIGEST

if TYPE_CHECKING:
    from tests.registry.cli.stub import Adapters

RECIPE = "sha256:" + "cd" * 32
REPORT = {
    "modules": 2,
    "copied": 7,
    "cosine": 0.99937,
    "relative_error": 0.03561,
    "swallowed": 0.2345,
    "kept": 0.99,
    "norm": 3.5,
    "warnings": ["23% of the elements that should change are stored unchanged: take fp32 or stochastic rounding"],
    "per_module": [
        {"name": "layers.0.q_proj", "cosine": 0.9999, "relative_error": 0.01, "swallowed": 0.1},
        {"name": "layers.1.q_proj", "cosine": 0.98, "relative_error": 0.2, "swallowed": 0.4},
        {"name": "layers.2.q_proj", "cosine": 1.0, "relative_error": 0.0, "swallowed": 0.0},
    ],
}
MADE = MaterializeResult(
    path=Path("/m/out"),
    recipe={"kind": "merged"},
    report=REPORT,
    artifact=3,
    recipe_digest=RECIPE,
    digest=DIGEST,
    size=4_210_000,
    files=2,
)
INFO = ArtifactInfo(
    artifact=3,
    recipe_digest=RECIPE,
    digest=DIGEST,
    kind="merged",
    base="team/base",
    parents=("team/a@1", "/x/b"),
    size=4_210_000,
    places=(ArtifactPlace("here", "/m/out", "unchanged"), ArtifactPlace("there", "/n\n", "elsewhere")),
    stored=True,
    stored_bytes=123_456,
    actor="ann",
    created_at=AT,
)
DETAIL = ArtifactDetail(
    INFO,
    {
        "kind": "merged",
        "parents": [{"digest": DIGEST, "weight": 0.7}, {"digest": DIGEST, "weight": -0.3}],
        "rounding": "nearest",
        "dtype": "BF16",
        "seed": None,
    },
    ({"path": "config.json", "size": 10, "tensors": 0}, {"path": "model.safetensors", "size": 90, "tensors": 2}),
    {"w": DIGEST, "v": DIGEST},
    REPORT,
)
NOTHING = {"lossy": False, "store": False, "resume": False, "dry_run": False}


@pytest.mark.parametrize(
    ("line", "args", "kwargs"),
    [
        (
            "materialize t/a ./b --as merged --to ./out",
            ((("t/a", "./b"),)),
            {"kind": "merged", "to": "./out", **NOTHING},
        ),
        (
            (
                "materialize t/a --as merged --to ./out --base t/base --weights=-0.5 --dtype bf16 --quantize nf4 "
                "--rounding stochastic --seed 3 --shard-size 2GB --lossy --store --resume --dry-run --jobs 4"
            ),
            (("t/a",),),
            {
                "kind": "merged",
                "to": "./out",
                "base": "t/base",
                "weights": (-0.5,),
                "dtype": "bf16",
                "quantize": "nf4",
                "rounding": "stochastic",
                "seed": 3,
                "shard_size": "2GB",
                "lossy": True,
                "store": True,
                "resume": True,
                "dry_run": True,
                "jobs": 4,
            },
        ),
        (
            "materialize t/a --as peft --to ./out --rank 32 --for vllm@0.33.0",
            (("t/a",),),
            {"kind": "peft", "to": "./out", "rank": 32, "for_engine": "vllm@0.33.0", **NOTHING},
        ),
    ],
)
@pytest.mark.parametrize("form", ["human", "json", "quiet"])
def test_a_command_line_asks_one_thing(adapters: Adapters, form, line, args, kwargs):
    outcome = adapters(*line.split(), "--format", form, materialize=MADE)

    if len(args) == 2:
        args = (args,)
    assert outcome.calls == [("materialize", args, {**kwargs, "progress": None, "notice": note})]
    assert outcome.code == 0


@pytest.mark.parametrize(
    "line",
    [
        "materialize --as merged --to ./out",
        "materialize t/a --to ./out",
        "materialize t/a --as merged",
        "materialize t/a --as onnx --to ./out",
        "materialize t/a --as merged --to ./out --quantize int3",
        "materialize t/a --as merged --to ./out --weights a,b",
        "materialize t/a --as merged --to ./out --seed -1",
        "materialize t/a --as merged --to ./out --rank 0",
        "artifacts show",
        "artifacts rm",
    ],
)
def test_a_malformed_line_is_a_usage_error(adapters: Adapters, line):
    outcome = adapters(*line.split(), materialize=MADE, artifact=DETAIL, remove_artifact=None)

    assert (outcome.code, outcome.calls, outcome.out) == (2, [], "")
    assert "error: " in outcome.err


def test_people_see_what_was_made_how_exact_it_is_and_what_comes_next(adapters: Adapters):
    outcome = adapters("materialize", "t/a", "--as", "merged", "--to", "./out", materialize=MADE)

    assert outcome.out.splitlines() == [
        "path      /m/out",
        "artifact  3",
        "size      4.21 MB in 2 files",
        f"digest    {DIGEST}",
        f"recipe    {RECIPE}",
        "",
        "modules         2",
        "copied          7 tensors, bit for bit",
        "cosine          0.999370",
        "relative error  0.03561",
        "swallowed       23.45 %",
        "kept            99.00 %",
        "",
        "LEAST EXACT MODULES    COSINE  RELATIVE ERROR  SWALLOWED",
        "layers.1.q_proj      0.980000             0.2    40.00 %",
        "layers.0.q_proj      0.999900            0.01    10.00 %",
        "",
        "next: adapters artifacts verify 3",
    ]
    assert outcome.err == (
        "warning: 23% of the elements that should change are stored unchanged: take fp32 or stochastic rounding\n"
    )


def test_people_see_the_images_by_name_and_which_of_them_are_rounded(adapters: Adapters):
    images = {
        "t/a@1": {"size": 5, "sha256": DIGEST, "exact": True},
        "t/b@2": {"size": 5, "sha256": DIGEST, "exact": False},
    }
    report = {"class": DIGEST, "rank": 32, "dtype": "F32", "adapted": 14, "images": images}
    result = MaterializeResult(Path("/m"), {}, report, 1, RECIPE, DIGEST, 5, 1)

    outcome = adapters("materialize", "t/a", "t/b", "--as", "hotswap", "--to", "./m", materialize=result)

    assert outcome.out.splitlines()[5:] == [
        "",
        "rank     32",
        "adapted  14 modules",
        "images   t/a@1, t/b@2 (rounded)",
        "",
        "next: adapters artifacts verify 1",
    ]


def test_people_see_what_padding_and_rewriting_did(adapters: Adapters):
    report = {"rank": 16, "adapted": 1, "zeros": 2, "rewrites": ["a", "b"], "rounded": 3, "largest_change": 0.00123456}
    result = MaterializeResult(Path("/m"), {}, report, 1, RECIPE, DIGEST, 5, 1)

    outcome = adapters("materialize", "t/a", "--as", "peft", "--to", "./m", materialize=result)

    assert outcome.out.splitlines()[6:-2] == [
        "rank      16",
        "adapted   1 module",
        "zeros     2 modules without a change",
        "rewrites  a, b",
        "rounded   3 tensors, none by more than 0.001235 of its norm",
    ]


def test_people_see_nothing_of_what_did_not_happen(adapters: Adapters):
    report = {"rank": None, "adapted": 4, "zeros": 0, "rewrites": [], "rounded": 0, "largest_change": 0.0}
    result = MaterializeResult(Path("/m"), {}, report, 1, RECIPE, DIGEST, 5, 1)

    outcome = adapters("materialize", "t/a", "--as", "peft", "--to", "./m", materialize=result)

    assert outcome.out.splitlines()[6:-2] == ["adapted  4 modules"]


@pytest.mark.parametrize(
    ("reused", "said"),
    [
        ("kept", "it was there, hashed again"),
        ("linked", "shares its weights with another folder, hashed again"),
        ("copied", "copied from another folder, hashed again"),
        ("restored", "from the store, hashed again"),
    ],
)
def test_people_see_where_a_result_comes_from_that_was_not_built(adapters: Adapters, reused, said):
    result = MaterializeResult(Path("/m"), {}, {}, 1, RECIPE, DIGEST, 5, 1, reused=reused, stored=True, notes=("x",))

    outcome = adapters("materialize", "t/a", "--as", "merged", "--to", "./out", materialize=result)

    assert f"reused    {said}" in outcome.out.splitlines()
    assert "stored    its tensors are in the store" in outcome.out.splitlines()
    assert outcome.err == "note: x\n"


def test_a_dry_run_says_so(adapters: Adapters):
    report = {"size": 1000, "files": [{"name": "model.safetensors", "size": 900}], "modules": 2, "copied": 1}
    result = MaterializeResult(None, {}, report, recipe_digest=RECIPE, size=1000)

    outcome = adapters("materialize", "t/a", "--as", "merged", "--to", "./out", "--dry-run", materialize=result)
    quiet = adapters("materialize", "t/a", "--as", "merged", "--to", "./o", "--format", "quiet", materialize=result)

    assert outcome.out.splitlines()[:2] == ["dry run: nothing was written", "size    1.00 kB in 1 file"]
    assert "next:" not in outcome.out
    assert quiet.out == f"{RECIPE}\n"


def test_findings_are_told_and_leave_the_exit_code_alone(adapters: Adapters):
    finding = Finding("base-differs", "warning", "was pushed for another", target="t/a@1")
    result = MaterializeResult(Path("/m"), {}, {}, 1, RECIPE, DIGEST, 5, 1, findings=(finding,))

    outcome = adapters("materialize", "t/a", "--as", "merged", "--to", "./out", materialize=result)

    assert (outcome.code, "warning  base-differs  t/a@1: was pushed for another" in outcome.out) == (0, True)


def test_json_has_path_recipe_and_report(adapters: Adapters):
    outcome = adapters("materialize", "t/a", "--as", "merged", "--to", "./o", "--format", "json", materialize=MADE)

    document = json.loads(outcome.out)
    assert (document["path"], document["recipe"], document["report"]) == ("/m/out", {"kind": "merged"}, REPORT)
    assert (document["artifact"], document["reused"], document["stored"]) == (3, None, False)


@pytest.mark.parametrize(
    "case",
    [
        ("artifacts list", "artifacts", (INFO,), (), {}, "3"),
        ("artifacts show 3", "artifact", DETAIL, ("3",), {}, DIGEST),
        (
            "artifacts verify ./m",
            "verify_artifact",
            ArtifactCheck(3, Path("/m"), DIGEST, 2, 9, REPORT),
            ("./m",),
            {"measure": False},
            DIGEST,
        ),
        (
            "artifacts rebuild 3 --to ./n",
            "rebuild_artifact",
            RebuildResult(3, RECIPE, DIGEST, Path("/n")),
            ("3",),
            {"to": "./n", "progress": None, "notice": note},
            DIGEST,
        ),
        (
            "artifacts rm 3 --files",
            "remove_artifact",
            RemovedArtifact(3, RECIPE, ("/m",), {"/n": "changed"}),
            ("3",),
            {"files": True},
            "3",
        ),
    ],
)
def test_each_command_of_artifacts_asks_one_thing(adapters: Adapters, case):
    line, method, answer, args, kwargs, ids = case
    for form in ("human", "json", "quiet"):
        outcome = adapters(*line.split(), "--format", form, **{method: answer})
        assert (outcome.code, outcome.calls) == (0, [(method, args, kwargs)])
        assert outcome.out
        if form == "quiet":
            assert outcome.out == f"{ids}\n"


def test_the_list_is_a_table_with_every_place_and_no_control_character(adapters: Adapters):
    outcome = adapters("artifacts", "list", artifacts=(INFO,))

    header, row = outcome.out.splitlines()
    assert header.split() == ["ARTIFACT", "AS", "SIZE", "STORED", "BASE", "FROM", "CREATED", "PLACES"]
    assert row.split("  ")[-1] == r"/m/out (unchanged), /n\n (elsewhere)"
    assert " 4.21 MB " in row
    assert " 123 kB " in row
    assert adapters("artifacts", "list", artifacts=()).out == ""


def test_show_tells_weights_options_and_places(adapters: Adapters):
    lines = adapters("artifacts", "show", "3", artifact=DETAIL).out.splitlines()

    assert "from      team/a@1 at weight 0.7, /x/b at weight -0.3" in lines
    assert "dtype     BF16" in lines
    assert not any(line.startswith("seed") for line in lines)
    assert r"place  /n\n on there: elsewhere" in lines
    assert "size      4.21 MB in 2 files" in lines


def test_show_as_json_is_one_object_with_the_rows_fields(adapters: Adapters):
    document = json.loads(adapters("artifacts", "show", "3", "--format", "json", artifact=DETAIL).out)

    assert (document["artifact"], document["created_at"]) == (3, "2026-03-04T05:06:07Z")
    assert document["tensors"] == {"w": DIGEST, "v": DIGEST}
    assert document["recipe"]["parents"][1]["weight"] == -0.3


def test_rm_says_what_went_and_what_stayed(adapters: Adapters):
    removed = RemovedArtifact(3, RECIPE, ("/m",), {"/n": "changed"})

    outcome = adapters("artifacts", "rm", "3", remove_artifact=removed)

    assert outcome.out.splitlines() == ["artifact 3 is forgotten", "deleted /m", "kept /n: changed"]


def test_what_came_from_the_store_is_not_said_to_be_built(adapters: Adapters):
    done = RebuildResult(3, RECIPE, DIGEST, Path("/n"), restored=True)

    outcome = adapters("artifacts", "rebuild", "3", rebuild_artifact=done)
    document = json.loads(adapters("artifacts", "rebuild", "3", "--format", "json", rebuild_artifact=done).out)

    assert outcome.out.splitlines()[0] == "artifact 3: taken from the store, every byte hashed"
    assert (document["restored"], document["path"]) == (True, "/n")


def test_rebuild_notes_go_to_stderr(adapters: Adapters):
    done = RebuildResult(3, RECIPE, DIGEST, None, ("it is /x.changed-1 now",))

    outcome = adapters("artifacts", "rebuild", "3", rebuild_artifact=done)

    assert outcome.out.splitlines()[0] == "artifact 3: built again, every tensor has the digest it had"
    assert outcome.out.splitlines()[-1] == "compared and dropped; --to DIR keeps a build"
    assert outcome.err == "note: it is /x.changed-1 now\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CorruptError("/m: tensor w", expected=DIGEST, actual=RECIPE, hint="adapters artifacts rebuild 3"), 6),
        (NotFoundError("artifact 3: there is none", hint="adapters artifacts list"), 4),
    ],
)
def test_what_is_wrong_or_missing_has_its_exit_code_and_the_next_command(adapters: Adapters, error, code):
    outcome = adapters("artifacts", "verify", "3", verify_artifact=error)

    assert (outcome.code, outcome.out) == (code, "")
    assert outcome.err.splitlines() == [f"error: {error}", f"hint: {error.hint}"]
