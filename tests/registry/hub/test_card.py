"""Model cards: what is said of a version, and that an author's text survives it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
import yaml

from registry.hub.card import make_card
from registry.hub.frontmatter import with_fields
from registry.results import Edge, LineageGraph, VersionDetail

DIGEST = "sha256:" + "ab" * 32
PLAIN = VersionDetail(
    ref="team/sql@3",
    name="team/sql",
    version=3,
    digest=DIGEST,
    tensors_digest=None,
    base="llama",
    peft_type="LORA",
    rank=8,
    size=1,
    dtype="F32",
    norm=1.0,
    aliases=(),
    tags={},
    metrics={},
    message=None,
    pushed_by=None,
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    deleted_at=None,
    files=(),
    config={"base_model_name_or_path": "meta-llama/Llama-3.1-8B"},
    modules=(),
    lineage=LineageGraph(
        (), (Edge("team/sql@3", "llama", "base"), Edge("team/child@1", "team/sql@3", "finetuned_from"))
    ),
    recipe=None,
    report=None,
    findings=(),
)
MERGED = replace(
    PLAIN,
    lineage=LineageGraph(
        (), (Edge("team/sql@3", "team/a@1", "merged_from", 0.7), Edge("team/sql@3", "team/b@2", "merged_from", 0.3))
    ),
    report={
        "method": "svd",
        "rank": 16,
        "dtype": "BF16",
        "modules": 2,
        "norm": 3.0,
        "energy_kept": 0.98765432,
        "relative_error": 0.11111111,
        "parents": [
            {"ref": "team/a@1", "weight": 0.7, "norm": 2.0, "cosine": 0.9, "retention": 0.8, "share": 0.75},
            {"ref": "team/b@2", "weight": 0.3, "norm": 1.0, "cosine": None, "retention": None, "share": 0.25},
        ],
    },
)


def front(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_a_version_without_a_readme():
    assert make_card(None, PLAIN, "MIT").text == (
        "---\n"
        "base_model: meta-llama/Llama-3.1-8B\n"
        "base_model_relation: adapter\n"
        "license: mit\n"
        "library_name: peft\n"
        "tags:\n"
        "- lora\n"
        "---\n"
        "\n"
        "# team/sql\n"
        "\n"
        "<!-- adapters: begin -->\n"
        "## Lineage\n"
        "\n"
        f"Version `team/sql@3`, digest `{DIGEST}`.\n"
        "Base model: llama.\n"
        "<!-- adapters: end -->\n"
    )


def test_a_merge_tells_its_parents_and_what_was_kept():
    text = make_card(None, MERGED, None).text

    assert front(text)["base_model_relation"] == "merge"
    assert front(text)["tags"] == ["lora", "merge"]
    assert "| merged_from | `team/a@1` | 0.7 |\n| merged_from | `team/b@2` | 0.3 |\n" in text
    assert "| svd | 16 | BF16 | 2 | 3 | 0.987654 | 0.111111 |\n" in text
    assert "| team/b@2 | 0.3 | 1 | - | - | 0.25 |\n" in text


def test_children_are_not_parents():
    assert "team/child" not in make_card(None, PLAIN, None).text


def test_a_parent_it_was_finetuned_from_is_no_merge():
    lineage = LineageGraph((), (Edge("team/sql@3", "team/a@1", "finetuned_from"),))

    text = make_card(None, replace(PLAIN, lineage=lineage), None).text

    assert front(text)["base_model_relation"] == "adapter"
    assert "| finetuned_from | `team/a@1` | - |" in text


@pytest.mark.parametrize("name", ["/data/llama", "../x", "C:\\m", "a/b/c", "meta llama", "", "x\n---\n", 7, None])
def test_a_base_that_the_hub_cannot_know_is_not_in_the_front_matter(name):
    text = make_card(None, replace(PLAIN, config={"base_model_name_or_path": name}, base="/data/llama"), None).text

    assert "base_model" not in front(text)
    assert "base_model_relation" not in front(text)


@pytest.mark.parametrize(
    ("licence", "fields"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("My Own: terms", {"license": "other", "license_name": "my own: terms"}),
        ("", {}),
        (None, {}),
    ],
)
def test_licences(licence, fields):
    found = front(make_card(None, PLAIN, licence).text)

    assert {key: value for key, value in found.items() if key.startswith("license")} == fields


def test_what_strangers_named_cannot_write_markup():
    text = make_card(None, replace(PLAIN, base="<script>x</script>|[a](b)\n# `big`"), None).text

    assert r"Base model: &lt;script&gt;x&lt;/script&gt;\|\[a\](b) \# \`big\`." in text


class TestTheAuthorsText:
    def test_stays_and_keeps_its_own_fields(self):
        own = "---\n# about us\nlicense: cc-by-4.0\nbase_model: mine/base\n---\n# Title\n\nText | with `marks` <b>\n"

        card = make_card(own, PLAIN, "mit")

        assert card.text.startswith(
            "---\n# about us\nlicense: cc-by-4.0\nbase_model: mine/base\nbase_model_relation: adapter\nlibrary_name: peft\n"
            "tags:\n- lora\n---\n# Title\n\nText | with `marks` <b>\n\n<!-- adapters: begin -->\n"
        )
        assert card.added == ("base_model_relation", "library_name", "tags")

    def test_travels_to_the_hub_and_back_unchanged(self):
        once = make_card("# Title\n\nText\n", MERGED, "mit").text

        assert make_card(once, MERGED, "mit").text == once

    def test_without_front_matter_gets_one(self):
        text = make_card("# Title\n", PLAIN, None).text

        assert text.startswith("---\nbase_model: meta-llama/Llama-3.1-8B\n")
        assert "---\n# Title\n" in text

    @pytest.mark.parametrize(
        "block",
        [
            "- a\n- b\n",
            "a: [\n",
            "a: !!python/object:os.system x\n",
            "x: *nothing\n",
            "x: " + "[" * 60_000 + "\n",
            "k: v\n" * 250_000,
        ],
    )
    def test_front_matter_that_cannot_be_read_is_kept_below(self, block):
        own = f"---\n{block}---\n# Title\n"

        text = make_card(own, PLAIN, None).text

        assert text.startswith("---\nbase_model: meta-llama")
        assert f"---\n---\n{block}---\n# Title\n" in text

    def test_a_rule_in_the_text_is_not_its_end(self):
        own = "---\nlicense: mit\n---\nA\n\n---\n\nB\n"

        assert "---\nA\n\n---\n\nB\n" in make_card(own, PLAIN, None).text


class TestFrontMatter:
    def test_nothing_missing_changes_nothing(self):
        text = "---\r\nlicense:   mit   # ours\r\n---\r\nx"

        assert with_fields(text, {"license": "apache-2.0"}) == (text, ())

    def test_lines_end_as_the_authors_do(self):
        assert with_fields("---\r\na: 1\r\n---\r\nx", {"b": [2]})[0] == "---\r\na: 1\r\nb:\r\n- 2\r\n---\r\nx"

    def test_a_field_without_a_value_is_left_to_the_author(self):
        assert with_fields("---\nlicense:\n---\n", {"license": "mit"}) == ("---\nlicense:\n---\n", ())

    def test_an_empty_block_is_filled(self):
        assert with_fields("---\n---\nx", {"a": 1})[0] == "---\na: 1\n---\nx"

    def test_a_byte_order_mark_is_no_text(self):
        assert with_fields("\ufeff---\na: 1\n---\n", {"b": 2})[0] == "\ufeff---\na: 1\nb: 2\n---\n"
