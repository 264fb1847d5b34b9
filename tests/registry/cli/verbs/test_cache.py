"""What `cache ls` and `cache prune` print, and what they refuse."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from registry.errors import UnavailableError
from registry.results import CacheEntry, PruneResult
from tests.registry.cli.stub import AT, DIGEST, Adapters

ENTRY = CacheEntry(DIGEST, Path("/p"), 1_500_000, 3, AT, ("t/s@1", "t/copy@2"), "ok")


@pytest.fixture
def adapters(capsys):
    return Adapters(capsys)


def test_the_list_is_a_table(adapters):
    other = replace(ENTRY, digest="sha256:" + "cd" * 32, refs=(), state="incomplete", size=12, files=1)
    done = adapters("cache", "ls", cache=(ENTRY, other))

    assert done.code == 0
    assert done.out.splitlines() == [
        f"{'DIGEST':71}     SIZE  FILES  USED                  STATE       VERSIONS",
        f"{DIGEST}  1.50 MB      3  2026-03-04T05:06:07Z  ok          t/s@1 t/copy@2",
        f"{other.digest}     12 B      1  2026-03-04T05:06:07Z  incomplete  -",
    ]


def test_a_catalog_that_is_away_is_told_and_takes_nothing_but_the_names(adapters):
    done = adapters("cache", "ls", cache=(replace(ENTRY, refs=None),))

    assert done.code == 0
    assert done.out.splitlines()[1].endswith("  ok     ?")
    assert done.err == "note: the catalog cannot be asked which versions these are\n"


def test_json_says_all(adapters):
    done = adapters("cache", "ls", "--format", "json", cache=(ENTRY,))

    assert json.loads(done.out) == [
        {
            "digest": DIGEST,
            "path": "/p",
            "size": 1_500_000,
            "files": 3,
            "last_used": "2026-03-04T05:06:07Z",
            "refs": ["t/s@1", "t/copy@2"],
            "state": "ok",
        }
    ]


def test_quiet_is_digests_alone(adapters):
    assert adapters("cache", "ls", "--format", "quiet", cache=(ENTRY,)).out == f"{DIGEST}\n"
    pruned = PruneResult(False, 1, 10, 0, (DIGEST,))
    assert adapters("cache", "prune", "--format", "quiet", prune_cache=pruned).out == f"{DIGEST}\n"


@pytest.mark.parametrize(("dry_run", "verb"), [(False, "removed"), (True, "would remove")])
def test_a_prune_says_what_went_and_what_stayed(adapters, dry_run, verb):
    result = PruneResult(dry_run, 2, 1_500_000, 1, (DIGEST,), {"in use": 1})
    done = adapters("cache", "prune", "--keep", "0", prune_cache=result)

    assert done.out == f"{verb} 2 pulled versions, 1.50 MB (1 temporary file)\nkept 1: in use\n"


@pytest.mark.parametrize("arguments", [["--keep", "-1"], ["--keep", "x"], ["more"]])
def test_what_cannot_be_meant_is_bad_usage(adapters, arguments):
    done = adapters("cache", "prune", *arguments, prune_cache=PruneResult(False, 0, 0, 0))

    assert (done.code, done.calls) == (2, [])


def test_a_cache_that_cannot_be_reached_is_7(adapters):
    done = adapters("cache", "prune", prune_cache=UnavailableError("/cache: Permission denied"))

    assert (done.code, done.err) == (7, "error: /cache: Permission denied\n")


def test_links_need_a_folder(adapters):
    done = adapters("pull", "t/s", "--to", "hf://org/name", "--link")

    assert done.code == 2
    assert "--link goes with --to DIR" in done.err
