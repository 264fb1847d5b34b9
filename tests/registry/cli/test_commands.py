"""What each command line asks of the registry."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest

from registry.basemodels.baseinfo import BaseInfo
from registry.checks.check import CheckRequest
from registry.cli.root import SECTIONS, VERBS, root
from registry.cli.shown.output import note
from registry.findings.verdicts import CheckReport
from registry.results import (
    CacheEntry,
    FsckResult,
    GcResult,
    LineageGraph,
    MergeResult,
    PruneResult,
    PullResult,
    RegistryStatus,
    RerunResult,
    VerifyResult,
)
from tests.commands import COMMANDS
from tests.registry.cli.stub import AT, DIGEST, Adapters, moved, pushed, version

BASE = BaseInfo(("gpt2",), DIGEST, DIGEST, "GPT2LMHeadModel", "gpt2", "F32", None, 148, 124_439_808, None, 2)
CACHED = CacheEntry(DIGEST, Path("/p"), 1_500_000, 3, AT, ("t/s@1", "t/copy@2"), "ok")
STATUS = RegistryStatus("sqlite:///x", "/blobs", "0001")
REPORT: dict[str, Any] = {
    "method": "svd",
    "rank": 16,
    "dtype": "BF16",
    "modules": 2,
    "norm": 3.0,
    "energy_kept": 0.98765,
    "relative_error": 0.11111,
    "parents": [
        {"ref": "t/a@1", "weight": 0.5, "norm": 2.0, "cosine": 0.9, "retention": 0.8, "share": 0.75},
        {"ref": "t/b@1", "weight": 0.5, "norm": 1.0, "cosine": None, "retention": None, "share": 0.25},
    ],
    "per_module": [
        {"name": "h.0.attn", "rank": 16, "energy_kept": 0.99, "relative_error": 0.1},
        {"name": "h.1.attn", "rank": 16, "energy_kept": 1.0, "relative_error": 0.0},
    ],
}
MERGED = MergeResult("t/ab@1", "t/ab", 1, DIGEST, None, True, (), (), REPORT)
NOTHING_MORE: dict[str, Any] = {
    "tags": {},
    "metrics": {},
    "message": None,
    "allow": (),
    "aliases": (),
    "progress": None,
    "licence": None,
    "git_commit": None,
    "run_id": None,
}

SAID_NOTHING_MORE = {name: value for name, value in NOTHING_MORE.items() if value is not None} | {"progress": None}

ASKED: list[tuple[str, Any, str, tuple[Any, ...], dict[str, Any]]] = [
    ("init", STATUS, "init", (), {}),
    ("migrate", STATUS, "migrate", (), {}),
    ("doctor", STATUS, "doctor", (), {}),
    (
        "push ./x t/s",
        pushed(),
        "push",
        ("./x", "t/s"),
        {
            "base": None,
            "parents": (),
            "relation": "finetuned_from",
            "include": (),
            "data_digest": None,
            **NOTHING_MORE,
        },
    ),
    (
        (
            "push ./x t/s --alias a --alias b --tag k=v=w --tag e= --metric n=-1e-3 --message m --base b --parent t/s@1"
            " --parent t/s@2 --relation converted_from --include *.txt --allow nan --licence mit --git-commit 8c0f1d2"
            " --run-id r1 --data-digest d1"
        ),
        pushed(),
        "push",
        ("./x", "t/s"),
        {
            "aliases": ("a", "b"),
            "tags": {"k": "v=w", "e": ""},
            "metrics": {"n": -0.001},
            "message": "m",
            "base": "b",
            "parents": ("t/s@1", "t/s@2"),
            "relation": "converted_from",
            "include": ("*.txt",),
            "allow": ("nan",),
            "licence": "mit",
            "git_commit": "8c0f1d2",
            "run_id": "r1",
            "data_digest": "d1",
            "progress": None,
        },
    ),
    (
        "pull t/s@3 --to ./d",
        PullResult("t/s@3", DIGEST, "/p"),
        "pull_result",
        ("t/s@3",),
        {"to": "./d", "link": False, "progress": None, "notice": note},
    ),
    (
        (
            "list --name t/* --base b --type lora --rank 8..32 --size 1MB.. --created 7d --tag k=v --alias a"
            " --metric m=0.5.. --check vllm=pass --sort size:desc --limit 0 --cursor c --all-versions"
            " --licence mit --git-commit 8c0f --run-id r --data-digest d --pushed-by ann"
        ),
        [],
        "list",
        (),
        {
            "name": "t/*",
            "base": "b",
            "peft_type": "lora",
            "rank": "8..32",
            "size": "1MB..",
            "created": "7d",
            "tags": {"k": "v"},
            "alias": "a",
            "metrics": {"m": "0.5.."},
            "check": "vllm=pass",
            "licence": "mit",
            "git_commit": "8c0f",
            "run_id": "r",
            "data_digest": "d",
            "pushed_by": "ann",
            "sort": "size:desc",
            "limit": 0,
            "cursor": "c",
            "all_versions": True,
        },
    ),
    ("cache ls", (CACHED,), "cache", (), {}),
    (
        "cache prune --older-than 30d --max-size 50GB --keep 5 --dry-run",
        PruneResult(True, 0, 0, 0),
        "prune_cache",
        (),
        {"older_than": "30d", "max_size": "50GB", "keep": 5, "dry_run": True},
    ),
    ("log t/s", (), "log", ("t/s",), {}),
    ("lineage t/s", LineageGraph((), ()), "lineage", ("t/s",), {"up": True, "down": True}),
    ("which ./f", (version(),), "which", ("./f",), {}),
    ("alias set t/s@3 prod --expect none", moved(), "set_alias", ("t/s@3", "prod"), {"expect": "none"}),
    ("alias rm t/s prod", moved(), "remove_alias", ("t/s", "prod"), {}),
    ("alias rollback t/s prod", moved(), "rollback_alias", ("t/s", "prod"), {}),
    ("alias list t/s", (), "aliases", ("t/s",), {}),
    ("tag set t/s a=1 b=2", version(), "set_tags", ("t/s", {"a": "1", "b": "2"}), {}),
    ("tag rm t/s a b", version(), "remove_tags", ("t/s", ("a", "b")), {}),
    ("metric set t/s a=1 b=-2.5", version(), "set_metrics", ("t/s", {"a": 1.0, "b": -2.5}), {}),
    ("rm t/s@3", version(), "remove", ("t/s@3",), {}),
    ("undelete t/s@3", version(), "undelete", ("t/s@3",), {}),
    ("verify t/s@3", VerifyResult("t/s@3", DIGEST, 2, 10), "verify", ("t/s@3",), {}),
    ("fsck", FsckResult("pass", 0, 0, ()), "fsck", (), {"rebuild": False, "progress": None}),
    ("gc --grace 12h --dry-run", GcResult(True, 0, 0, 0, 0), "gc", (), {"grace": "12h", "dry_run": True}),
    ("gc", GcResult(False, 0, 0, 0, 0), "gc", (), {"grace": "7d", "dry_run": False}),
    (
        "base add ./m --name a --name b --revision r",
        BASE,
        "add_base",
        ("./m",),
        {"names": ("a", "b"), "revision": "r", "norms": False},
    ),
    ("base list", (BASE,), "bases", (), {}),
    ("base show gpt2", BASE, "base", ("gpt2",), {}),
    (
        "check t/s ./x --base b",
        CheckReport("pass", {}, ()),
        "check_request",
        (CheckRequest(targets=("t/s", "./x"), base="b"),),
        {"progress": None, "processes": min(os.cpu_count() or 1, 8)},
    ),
    (
        (
            "merge t/a t/b --weights 0.7,-0.3 --combination cat --rank max --dtype F32 --into t/ab --dry-run"
            " --assume-same-base"
        ),
        MERGED,
        "merge",
        (("t/a", "t/b"),),
        {
            "weights": (0.7, -0.3),
            "combination": "cat",
            "rank": "max",
            "dtype": "F32",
            "into": "t/ab",
            "dry_run": True,
            "assume_same_base": True,
            **SAID_NOTHING_MORE,
        },
    ),
    (
        "merge t/a t/b --rank 8 --into t/ab --weights=-1,2",
        MERGED,
        "merge",
        (("t/a", "t/b"),),
        {
            "weights": (-1.0, 2.0),
            "rank": 8,
            "into": "t/ab",
            "dry_run": False,
            "assume_same_base": False,
            **SAID_NOTHING_MORE,
        },
    ),
    (
        (
            "merge t/a t/b --combination ties --density 0.2 --trim tensor --lambda 1.5 --majority-sign frequency --seed 7"
            " --energy 0.9 --budget 50MB --semantics peft --other first --jobs 2 --into t/ab"
        ),
        MERGED,
        "merge",
        (("t/a", "t/b"),),
        {
            "combination": "ties",
            "density": 0.2,
            "trim": "tensor",
            "lambda_": 1.5,
            "majority_sign": "frequency",
            "seed": 7,
            "energy": 0.9,
            "budget": "50MB",
            "semantics": "peft",
            "other": "first",
            "jobs": 2,
            "into": "t/ab",
            "dry_run": False,
            "assume_same_base": False,
            **SAID_NOTHING_MORE,
        },
    ),
    (
        "merge t/a t/b --weights-grid 0.7,0.3;1,-1 --into t/ab",
        (MERGED, MERGED),
        "merge_grid",
        (("t/a", "t/b"),),
        {
            "weights_grid": ((0.7, 0.3), (1.0, -1.0)),
            "into": "t/ab",
            "dry_run": False,
            "assume_same_base": False,
            **SAID_NOTHING_MORE,
        },
    ),
    (
        "merge --rerun t/ab@3 --jobs 2",
        RerunResult("t/ab@3", True, DIGEST, DIGEST, {}),
        "rerun",
        ("t/ab@3",),
        {"base": None, "jobs": 2, "device": None, "progress": None},
    ),
]


@pytest.mark.parametrize("case", ASKED, ids=[case[0] for case in ASKED])
@pytest.mark.parametrize("form", ["human", "json", "quiet"])
def test_a_command_line_asks_one_thing(adapters: Adapters, form: str, case: tuple[Any, ...]):
    """Every flag reaches its method unchanged, whatever the output format."""
    line, answer, method, args, kwargs = case

    outcome = adapters(*line.split(), "--format", form, **{method: answer})

    assert outcome.calls == [(method, args, kwargs)]
    assert (outcome.code, outcome.err.replace("note: no versions match\n", "")) == (0, "")


def test_the_verbs_of_this_release_are_all_there():
    """Design section 6, as far as it is built."""
    assert {name for name, _ in COMMANDS} == {
        *(
            "init",
            "migrate",
            "completion",
            "doctor",
            "push",
            "pull",
            "list",
            "show",
            "log",
            "lineage",
            "diff",
            "watch",
            "which",
        ),
        *("alias", "alias set", "alias rm", "alias rollback", "alias list"),
        *("tag", "tag set", "tag rm", "metric", "metric set"),
        *("base", "base add", "base list", "base show", "check", "lock", "plan", "impact", "merge"),
        *("rm", "undelete", "verify", "fsck", "gc", "cache", "cache ls", "cache prune", "backup"),
        *("export", "import", "convert", "materialize"),
        *("artifacts", "artifacts list", "artifacts show", "artifacts verify", "artifacts rebuild", "artifacts rm"),
        *("context", "context list", "context show"),
    }


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_every_command_takes_the_global_options(name: str, command: click.Command):
    flags = {flag for parameter in command.params for flag in parameter.opts}

    assert {"--format", "--home", "--database-url", "--store-url", "--debug"} <= flags


def test_the_table_of_verbs_says_what_the_commands_say():
    """The help of `adapters` is printed from a table, without importing the commands."""
    context = click.Context(root)
    said = {verb: entry[1] for section in SECTIONS.values() for verb, entry in section.items()}

    meant = {}
    for verb in VERBS:
        command = root.get_command(context, verb)
        assert command is not None
        meant[verb] = (command.help or "").partition("\n")[0]

    assert said == meant


def test_global_options_reach_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Any):
    seen = []
    monkeypatch.chdir(tmp_path)

    from registry.cli.failure import run

    def opener(settings: Any) -> Any:
        seen.append((str(settings.home), settings.database_url, settings.store_url))
        raise KeyboardInterrupt

    arguments = ["list", "--home", "/h", "--database-url", "sqlite:////d.db", "--store-url", "s3://b"]
    assert run(arguments, opener=opener) == 130
    assert seen == [("/h", "sqlite:////d.db", "s3://b")]


def test_global_options_may_stand_before_the_verb_too(adapters: Adapters):
    assert adapters("--format", "quiet", "list", list=[version()]).out == "team/sql@3\n"


def test_merge_prints_its_report_as_a_table(adapters: Adapters):
    outcome = adapters("merge", "t/a", "t/b", "--into", "t/ab", merge=MERGED)

    assert outcome.out.splitlines() == [
        "pushed  t/ab@1",
        f"digest  {DIGEST}",
        "",
        "method          svd",
        "rank            16",
        "dtype           BF16",
        "modules         2",
        "energy kept     98.77 %",
        "relative error  0.1111",
        "",
        "PARENT  WEIGHT  NORM    SHARE  COSINE  RETENTION",
        "t/a@1      0.5     2  75.00 %     0.9        0.8",
        "t/b@1      0.5     1  25.00 %       -          -",
        "",
        "LEAST EXACT MODULES  RANK  ENERGY KEPT  RELATIVE ERROR",
        "h.0.attn               16      99.00 %             0.1",
    ]


def test_a_report_tells_all_that_was_measured(adapters: Adapters):
    pair = {"parents": (0, 1), "cosine": 0.25, "columns_overlap": 0.5, "rows_overlap": 0.125, "sign_conflict": 0.4}
    need = {"share": 0.9, "largest": 8, "median": 6.5, "size": 1_230_000, "more_than": 0, "unknown": 1}
    more = {"share": 0.999, "largest": 64, "median": 60, "size": 9_870_000, "more_than": 3, "unknown": 1}
    told = {
        "truncation_error": 0.11,
        "rounding_error": 0.015,
        "swallowed": 0.002,
        "norm_inflation": 2.0,
        "pairs": [pair],
        "ranks_for": [need, more],
    }

    out = adapters("merge", "t/a", "--into", "t/ab", merge=replace(MERGED, report={**REPORT, **told})).out.splitlines()

    assert out[8:25] == [
        "relative error      0.1111",
        "truncation error    0.11",
        "rounding error      0.015",
        "swallowed by dtype  0.20 %",
        "norm inflation      2",
        "",
        "PARENT  WEIGHT  NORM    SHARE  COSINE  RETENTION",
        "t/a@1      0.5     2  75.00 %     0.9        0.8",
        "t/b@1      0.5     1  25.00 %       -          -",
        "",
        "PARENT  AND PARENT  COSINE  COLUMNS   ROWS  SIGN CONFLICT",
        "t/a@1   t/b@1         0.25      0.5  0.125        40.00 %",
        "",
        "TO KEEP OF EVERY MODULE  LARGEST RANK  MEDIAN  FILE ABOUT",
        "90 %                                8     6.5     1.23 MB",
        "99.9 %                            >64      60    >9.87 MB",
        "without 1 module whose spectrum is not known",
    ]


def test_a_dry_merge_says_that_nothing_was_published(adapters: Adapters):
    dry = MergeResult(None, "t/ab", None, None, None, False, (), (), REPORT)

    out = adapters("merge", "t/a", "t/b", "--into", "t/ab", "--dry-run", merge=dry).out

    assert out.startswith("dry run: nothing was published\n")
    assert "energy kept     98.77 %" in out


def test_gc_says_what_it_freed(adapters: Adapters):
    result = GcResult(False, 3, 1_200_000, 1, 0, kept={"younger than 7d": 2})

    assert (
        adapters("gc", gc=result).out
        == "freed 3 blobs, 1.20 MB (1 version, 0 temporary files)\nkept 2: younger than 7d\n"
    )


def test_pull_prints_the_folder_alone(adapters: Adapters):
    """So that `$(adapters pull REF)` is a path."""
    assert adapters("pull", "t/s", pull_result=PullResult("t/s@3", DIGEST, "/p/ab")).out == "/p/ab\n"


def test_base_show(adapters: Adapters):
    assert adapters("base", "show", "gpt2", base=BASE).out.splitlines() == [
        "names         gpt2",
        f"fingerprint   {DIGEST}",
        f"layout        {DIGEST}",
        "architecture  GPT2LMHeadModel",
        "model type    gpt2",
        "dtype         F32",
        "tensors       148",
        "parameters    124,439,808",
        "adapters      2",
    ]
