from __future__ import annotations

import pytest
from sqlalchemy import func, select

from engine.format.facts import BaseFacts
from registry.basemodels.bases import BaseMention, add, facts_of, find, get, list_bases, same_base
from registry.errors import NotFoundError, UsageError
from registry.models import Base, BaseName, Version
from tests.factories import digest, publish

WEIGHTS = {"h.0.attn.c_attn.weight": (768, 2304), "wte.weight": (50257, 768)}


def make_facts(fingerprint="gpt2", layout="gpt2", **fields):
    """A base of 768 * 2304 + 50257 * 768 = 40,366,848 parameters; fingerprint None is a config alone."""
    return BaseFacts(
        layout=digest(layout),
        parameters=WEIGHTS,
        fingerprint=None if fingerprint is None else digest(fingerprint),
        **{"architecture": "GPT2LMHeadModel", "tensors": 2, "config": {"n_layer": 1}, **fields},
    )


def put(database, facts, *names, revision=None):
    return database.write(lambda session: add(session, facts, names, revision=revision, actor="ada"))


def found(database, name):
    with database.reading() as session:
        base = find(session, name)
        return None if base is None else base.id


def test_a_base_is_told_as_it_was_given(database):
    info = put(database, make_facts(dtype="float32", model_type="gpt2"), "gpt2", "/models/gpt2", revision="main")

    assert (info.names, info.revision, info.created, info.notes) == (("gpt2", "/models/gpt2"), "main", True, ())
    assert (info.fingerprint, info.layout) == (digest("gpt2"), digest("gpt2"))
    assert (info.architecture, info.model_type, info.dtype, info.tensors) == ("GPT2LMHeadModel", "gpt2", "float32", 2)
    assert (info.parameters, info.adapters) == (40_366_848, 0)


def test_facts_come_back_as_they_went_in(database):
    facts = make_facts(dtype="float32", model_type="gpt2", quantization="bitsandbytes")
    put(database, facts, "gpt2")

    with database.reading() as session:
        assert facts_of(get(session, "gpt2")) == facts


def test_equal_content_is_one_base_with_more_names(database):
    put(database, make_facts(), "gpt2")

    info = put(database, make_facts(), "openai-community/gpt2")

    assert (info.created, info.names) == (False, ("gpt2", "openai-community/gpt2"))
    assert found(database, "gpt2") == found(database, "openai-community/gpt2") == 1


def test_adding_the_same_again_adds_nothing(database):
    put(database, make_facts(), "gpt2")
    put(database, make_facts(), "gpt2", revision="v2")

    with database.reading() as session:
        assert session.scalar(select(func.count(BaseName.id))) == 1
        assert list_bases(session)[0].revision == "v2"


def test_a_name_means_what_it_was_given_last_and_a_note_says_so(database):
    put(database, make_facts("old"), "gpt2", "first")

    info = put(database, make_facts("new"), "gpt2")

    assert info.names == ("gpt2",)
    assert any(f"gpt2 meant another base before ({digest('old')})" in note for note in info.notes)
    assert (found(database, "gpt2"), found(database, "first")) == (2, 1)


def test_a_name_can_go_back_to_what_it_meant_before(database):
    for content in ("old", "new", "old"):
        put(database, make_facts(content), "gpt2")

    assert found(database, "gpt2") == 1
    with database.reading() as session:
        assert [info.names for info in list_bases(session)] == [("gpt2",), ()]


def test_a_config_alone_becomes_complete_when_its_weights_arrive(database):
    put(database, make_facts(None, tensors=0), "gpt2")
    publish(database, base_name="gpt2", base_id=1)

    info = put(database, make_facts(), "gpt2")

    assert (info.created, info.fingerprint, info.tensors, info.adapters) == (False, digest("gpt2"), 2, 1)


def test_a_config_alone_takes_nothing_from_a_base_with_weights(database):
    put(database, make_facts(), "gpt2")

    info = put(database, make_facts(None, tensors=0), "gpt2", "gpt2-alias")

    assert (info.created, info.fingerprint, info.tensors) == (False, digest("gpt2"), 2)
    assert info.names == ("gpt2", "gpt2-alias")


def test_an_equal_layout_under_another_name_is_another_base(database):
    """Llama and its instruct twin have one layout."""
    put(database, make_facts(None), "llama")

    info = put(database, make_facts(None), "llama-instruct")

    assert info.created
    assert info.notes == ("same layout as llama, but not known to be the same content",)


def test_a_base_is_found_by_digest_and_by_its_first_hex_digits(database):
    put(database, make_facts(), "gpt2")

    assert found(database, digest("gpt2")) == 1
    assert found(database, digest("gpt2")[:19]) == 1
    assert found(database, digest("gpt2")[:18]) is None
    assert found(database, digest("other")) is None


def test_letter_case_matters_only_where_it_decides(database):
    put(database, make_facts("a"), "Meta/Llama")
    assert found(database, "meta/llama") == 1

    put(database, make_facts("b", layout="b"), "meta/LLAMA")

    assert found(database, "Meta/Llama") == 1
    assert found(database, "meta/LLAMA") == 2
    assert found(database, "meta/llama") is None


def test_a_name_nobody_gave_is_not_found(database):
    with database.reading() as session, pytest.raises(NotFoundError, match="base mistral: no base of that name"):
        get(session, "mistral")


@pytest.mark.parametrize("name", ["", "a\nb", "\x1b[31m", "sha256:" + "0" * 64, "x" * 1025])
def test_a_name_that_could_not_be_shown_or_meant_is_refused(database, name):
    with pytest.raises(UsageError, match="base name"):
        put(database, make_facts(), name)
    with database.reading() as session:
        assert session.scalar(select(func.count(Base.id))) == 0


def test_adapters_are_counted_once_and_deleted_versions_not(database):
    put(database, make_facts(), "gpt2")
    for name, seed in [("team/a", 1), ("team/a", 2), ("team/b", 3)]:
        publish(database, name, seed, base_id=1)
    with database.reading() as session:
        assert list_bases(session)[0].adapters == 2
    database.write(
        lambda session: session.execute(
            Version.__table__.update().values(deleted_at=func.current_timestamp(), newest=False)
        )
    )
    with database.reading() as session:
        assert list_bases(session)[0].adapters == 0


# One base or not: the rule for merges


@pytest.fixture
def known(database):
    """gpt2 and its copy (one content), llama (another), mistral (a config alone)."""
    put(database, make_facts("gpt2"), "gpt2", "copy")
    put(database, make_facts("llama", layout="llama"), "llama")
    put(database, make_facts(None, layout="mistral"), "mistral")
    return database


def verdict(database, *names, ids=None):
    mentions = [BaseMention(f"team/{n}@1", name, (ids or {}).get(n)) for n, name in enumerate(names)]
    with database.reading() as session:
        finding = same_base(session, mentions)
    return None if finding is None else (finding.rule, finding.severity)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("gpt2", "gpt2"), None),
        (("gpt2", "copy"), None),
        (("gpt2", "GPT2"), None),
        (("never-added", "never-added"), None),
        (("mistral", "mistral"), None),
        (("gpt2",), None),
        ((None, "gpt2"), ("base-unnamed", "warning")),
        (("gpt2", ""), ("base-unnamed", "warning")),
        ((None, None), ("base-unnamed", "warning")),
        (("gpt2", "llama"), ("base-differs", "error")),
        (("gpt2", "never-added"), ("base-differs", "error")),
        (("mistral", "gpt2"), ("base-differs", "error")),
        (("never-added", "nor-this"), ("base-differs", "error")),
        ((None, "gpt2", "llama"), ("base-differs", "error")),
    ],
)
def test_bases_of_a_merge(known, names, expected):
    assert verdict(known, *names) == expected


def test_the_base_known_at_the_push_counts_more_than_the_name(known):
    """The name moved on since: equal names, different contents."""
    assert verdict(known, "gpt2", "gpt2", ids={0: 1, 1: 2}) == ("base-differs", "error")
    assert verdict(known, None, "gpt2", ids={0: 1}) is None


def test_the_finding_names_both_sides(known):
    with known.reading() as session:
        finding = same_base(session, [BaseMention("team/a@1", "gpt2"), BaseMention("team/b@3", "llama")])
    assert finding.message == "team/a@1 is for base gpt2, team/b@3 for llama, their contents differ"
    assert "--assume-same-base" in finding.fix
