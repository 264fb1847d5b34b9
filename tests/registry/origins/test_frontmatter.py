"""A card's front matter: what is in it by YAML's own rules, and that nothing a stranger writes there costs much."""

from __future__ import annotations

import time

import pytest
import yaml

from registry.hub.frontmatter import with_fields
from registry.origins.frontmatter import front_matter


def fields(block):
    found = front_matter(f"---\n{block}---\ntext\n")
    assert found is not None
    assert found.problem is None, found.problem
    return found.fields


def problem(block):
    found = front_matter(f"---\n{block}---\ntext\n")
    assert found is not None
    assert found.fields == {}
    return found.problem


def laughs(key):
    """Ten lines that stand for 9 to the ninth power entries: by merge keys, or by lists of lists."""
    lines = ["k0: &k0 {a: 1, b: 2}"]
    for n in range(1, 10):
        many = ", ".join([f"*k{n - 1}"] * 9)
        lines.append(f"k{n}: &k{n} {{{key}: [{many}]}}")
    return "\n".join(lines) + "\n"


class TestWhatIsABlock:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            "# Title\n",
            "---",
            "---\nlicense: mit\n",
            "---\nlicense: mit\n --- \n",  # indented, it is part of the value
            "\n---\nlicense: mit\n---\n",
            "text\n---\nlicense: mit\n---\n",
            "----\nlicense: mit\n----\n",
            "--- license: mit\n---\n",
        ],
    )
    def test_what_is_none(self, text):
        assert front_matter(text) is None

    @pytest.mark.parametrize("start", ["---\n", "---  \n", "---\t\r\n", "\ufeff---\n"])
    @pytest.mark.parametrize("end", ["---", "---\n", "---\r\n", "--- \n# Title\n", "---\ntext\n---\nlicense: x\n---\n"])
    def test_the_first_closing_line_ends_it(self, start, end):
        found = front_matter(f"{start}license: mit\n{end}")

        assert found is not None
        assert found.fields == {"license": ("mit",)}
        assert found.end == len(start) + len("license: mit\n")

    def test_an_empty_block_has_no_fields_and_is_no_problem(self):
        assert fields("") == fields("# nothing yet\n") == {}


@pytest.fixture(params=["libyaml", "python"])
def loader(request, monkeypatch):
    """PyYAML may be built without libyaml; the two tell plain scalars differently."""
    if request.param == "python":
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    elif not hasattr(yaml, "CSafeLoader"):
        pytest.skip("this PyYAML has no libyaml")


@pytest.mark.usefixtures("loader")
class TestFields:
    @pytest.mark.parametrize(
        ("block", "expected"),
        [
            ("license: mit\n", {"license": ("mit",)}),
            ("license: 'm it'\n", {"license": ("m it",)}),
            ("license: >-\n  a\n  b\n", {"license": ("a b",)}),
            ("license: [mit, gemma]\n", {"license": ("mit", "gemma")}),
            ("license:\n- mit\n- gemma\n", {"license": ("mit", "gemma")}),
            ("{license: mit, tags: [a]}\n", {"license": ("mit",), "tags": ("a",)}),
            ("license: !!str mit\n", {"license": ("mit",)}),
            ("'license': mit # really\n", {"license": ("mit",)}),
            # nothing said
            ("license:\n", {"license": ()}),
            ("license: ~\ntags: null\nx: []\n", {"license": (), "tags": (), "x": ()}),
            ("license: 'null'\n", {"license": ("null",)}),
            # equal keys: the last counts, as in PyYAML
            ("license: mit\nlicense: gemma\n", {"license": ("gemma",)}),
            # what lies deeper is nobody's field
            ("a:\n  license: mit\n", {"a": ()}),
            ("a: [[license, mit], b]\n", {"a": ("b",)}),
            ("a: {b: {license: mit}}\nc: d\n", {"a": (), "c": ("d",)}),
            # an alias stands for nothing, an anchor takes nothing away
            ("a: &x mit\nlicense: *x\n", {"a": ("mit",), "license": ()}),
            ("a: &x {license: mit}\n<<: *x\n", {"a": (), "<<": ()}),
            # a key that is no scalar names no field, and the next pair is still a pair
            ("? [license]\n: mit\nb: c\n", {"": ("mit",), "b": ("c",)}),
            ("? {license: x}\n: mit\nb: c\n", {"": ("mit",), "b": ("c",)}),
            ("a: &x license\n*x : mit\nb: c\n", {"a": ("license",), "": ("mit",), "b": ("c",)}),
        ],
    )
    def test_keys_and_their_scalars(self, block, expected):
        assert fields(block) == expected

    @pytest.mark.parametrize(
        "block", ["license: mit\ntags: [a, b]\nx: 1\n", "license: mit\nlicense: gemma\n", "a: {b: c}\nd: e\n", "a:\n"]
    )
    def test_the_keys_are_those_that_pyyaml_loads(self, block):
        assert fields(block).keys() == yaml.safe_load(block).keys()


@pytest.mark.usefixtures("loader")
class TestWhatCannotBeRead:
    @pytest.mark.parametrize(
        ("block", "said"),
        [
            ("a: [\n", "is not YAML"),
            ("a: b: c\n", "is not YAML, line 2"),
            ("license: mit\n\tx: y\n", "is not YAML, line 3"),
            ("a: \x07\n", "is not YAML"),
            ("a: %bad\n", "is not YAML"),
            ("- license\n- mit\n", "is not a mapping"),
            ("- a\n- license\n- mit\n", "is not a mapping"),
            ("just text\n", "is not a mapping"),
            ("license: mit\n...\nlicense: gemma\n", "is not YAML"),
            ("license: mit\n...\n%YAML 1.1\n--- {license: gemma}\n", "is more than one document"),
            ("license: *nowhere\n", "has an alias of nothing"),
            ("*x : mit\na: &x b\n", "has an alias of nothing"),
            ("a: !!python/object/apply:os.system ['true']\n", "has a tag of no plain YAML"),
            ("a: {b: !custom c}\n", "has a tag of no plain YAML"),
        ],
    )
    def test_is_a_problem_with_its_reason(self, block, said):
        assert problem(block).startswith(f"front matter {said}")


class TestBounds:
    def test_fifty_levels_are_read_and_fifty_one_are_not(self):
        assert fields("a: " + "[" * 49 + "]" * 49 + "\nb: c\n") == {"a": (), "b": ("c",)}
        assert "nested deeper than 50" in problem("a: " + "[" * 50 + "]" * 50 + "\n")

    def test_block_style_counts_as_well_as_brackets(self):
        deep = "".join(" " * n + f"k{n}:\n" for n in range(60))

        assert "nested deeper than 50" in problem(deep)

    def test_a_megabyte_is_looked_at_and_no_more(self):
        head = "license: mit\n"
        room = (1 << 20) - len(head)

        assert fields(head + "#" * (room - 1) + "\n") == {"license": ("mit",)}
        assert problem(head + "#" * room + "\n") == "front matter is longer than 1048576 characters"

    def test_two_hundred_thousand_parts_are_too_many_even_where_they_are_short(self):
        assert "more than 200000 parts" in problem("a: [" + "1," * 200_000 + "]\n")
        assert fields("a: [" + "1," * 150_000 + "]\nlicense: mit\n")["license"] == ("mit",)

    @pytest.mark.parametrize("key", ["<<", "x"])
    @pytest.mark.parametrize("extra", ["", "license: mit\n"])
    def test_a_few_lines_that_stand_for_billions_of_entries_are_read_in_a_second(self, key, extra):
        block = laughs(key) + extra
        begun = time.process_time()
        found = fields(block)

        assert time.process_time() - begun < 1
        assert list(found) == [f"k{n}" for n in range(10)] + (["license"] if extra else [])

    @pytest.mark.parametrize("bracket", ["[", "{", "- ", "? "])
    def test_depth_costs_no_time(self, bracket):
        begun = time.process_time()
        problem("a:\n " + bracket * 300_000 + "\n")

        assert time.process_time() - begun < 2

    def test_openings_without_an_end_cost_no_time(self):
        begun = time.process_time()

        assert front_matter("---\n" + "--- x\n" * 200_000) is None
        assert time.process_time() - begun < 1


class TestFieldsAreAdded:
    def test_a_bomb_is_added_to_and_not_set_off(self):
        own = f"---\n{laughs('<<')}license: mit\n---\ntext\n"
        begun = time.process_time()
        text, added = with_fields(own, {"license": "gemma", "tags": ["lora"]})

        assert time.process_time() - begun < 1
        assert added == ("tags",)
        assert text == own.replace("license: mit\n", "license: mit\ntags:\n- lora\n")

    def test_what_a_reader_sees_is_what_a_writer_leaves(self):
        """A field that reading finds is never written a second time."""
        for block in ("license: [mit]\n", "license:\n", "'license': x\n", "a: &l x\nlicense: *l\n", "{license: x}\n"):
            assert with_fields(f"---\n{block}---\n", {"license": "gemma"}) == (f"---\n{block}---\n", ())

    def test_a_field_of_another_place_is_not_the_cards(self):
        for block in ("a:\n  license: x\n", "a: [license]\n", "license_name: x\n", "License: x\n"):
            assert with_fields(f"---\n{block}---\n", {"license": "gemma"}) == (
                f"---\n{block}license: gemma\n---\n",
                ("license",),
            )

    def test_a_list_is_kept_as_text(self):
        text, added = with_fields("---\n- license\n- mit\n---\nx", {"license": "gemma"})

        assert (text, added) == ("---\nlicense: gemma\n---\n---\n- license\n- mit\n---\nx", ("license",))
