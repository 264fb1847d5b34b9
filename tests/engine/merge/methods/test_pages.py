"""Every method has its page, and what CONTRIBUTING says of a new one works."""

import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

from engine.merge import METHODS, Method, RankRule, Source, merge
from tests.engine.merge.factories import deltas, distance, linear, write_adapter

ROOT = Path(__file__).parents[4]
PAGES = ROOT / "docs" / "methods"
NAMES = {"scale": "lambda", "majority_sign": "majority-sign"}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_page_that_names_its_options(name):
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")

    assert page.startswith(f"# {name}\n")
    assert re.search(rf"adapters merge .*--combination {name}\b", page)
    assert [option for option in METHODS[name].defaults if f"--{NAMES.get(option, option)}`" not in page] == []


@pytest.mark.parametrize("name", METHODS)
def test_the_list_of_pages_names_every_method_and_option(name):
    lines = (PAGES / "README.md").read_text(encoding="utf-8").splitlines()

    row = next(line for line in lines if line.startswith("|") and f"[{name}]({name}.md)" in line)

    told = row.split("|")[5].strip()
    assert told.split(", ") == [NAMES.get(option, option) for option in _in_order(METHODS[name].defaults)] or (
        told == "–" and not METHODS[name].defaults
    )


def _in_order(defaults):
    return sorted(defaults, key=["density", "trim", "rescale", "elect", "majority_sign", "scale", "seed"].index)


def test_every_page_is_of_a_method():
    assert {path.stem for path in PAGES.glob("*.md")} - {"README", "semantics-peft"} == set(METHODS)


@pytest.mark.parametrize(
    "page",
    [
        *("slerp", "tsv_m", "knots_ties", "core_ties"),
        *("ties", "dare_linear", "dare_ties", "magnitude_prune"),
    ],
)
def test_defaults_on_the_pages_are_the_tables(page):
    """`--name` ... default, in a table's row or in words."""
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")

    for option, value in METHODS[page].defaults.items():
        told = NAMES.get(option, option)
        found = re.search(rf"`--{told}` \| ([\w.]+) \|", text) or re.search(rf"`--{told}` λ, default ([\w.]+?)\.", text)
        assert found is not None
        assert found[1] == (f"{value:g}" if isinstance(value, float) else str(value))


def test_the_example_of_a_new_method_works(tmp_path, monkeypatch):
    """Its file and its row, as CONTRIBUTING shows them: weights 1 and 3 give a quarter and three of the parents."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split("## A new merge method\n")[1].split("\n## ")[0]
    file, row = (textwrap.dedent(block) for block in re.findall(r" *```python\n(.*?) *```", section, re.DOTALL))
    names = {"Method": Method}
    exec(file, names)
    for name, method in eval(f"{{{row}}}", names).items():
        monkeypatch.setitem(METHODS, name, method)
    folders = [
        write_adapter(tmp_path / f"parent{seed}", linear("m", inputs=16, outputs=12, rank=4, seed=seed))
        for seed in (1, 2)
    ]

    sources = [Source(folder, weight) for folder, weight in zip(folders, (1.0, 3.0), strict=True)]
    merge(sources, method="average", rule=RankRule("max"), out=tmp_path / "out")

    one, two = (deltas(folder)["m"] for folder in folders)
    expected = np.average([one, two], axis=0, weights=[1, 3])
    assert distance(deltas(tmp_path / "out")["m"], expected) < 3e-7
