"""The demo's scoring on embeddings that fit on one line."""

from pathlib import Path

import pytest

np = pytest.importorskip("numpy")

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="examples/ is not part of this source tree")


@pytest.fixture
def scoring(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import scoring

    return scoring


@pytest.fixture
def spelled(monkeypatch, tmp_path):
    """The sentences of one small task file."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import sentences

    (tmp_path / "tiny.toml").write_text(
        '[topics]\ntrain = ["the gate", "a bus"]\nheld_out = ["the pool"]\n'
        '[train]\nask = ["Where is {x}?", "{x} or not?"]\ntell = ["{x} is here."]\n'
        '[held_out]\nask = ["Who saw {x}?"]\n'
    )
    monkeypatch.setattr(sentences, "DATA", tmp_path)
    return lambda split: [(s.text, s.label) for s in sentences.sentences("tiny", split)]


def test_a_class_mean_is_the_unit_vector_along_the_mean_of_its_rows(scoring):
    means = scoring.class_means(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, -2.0]]), ["b", "b", "a"])
    assert list(means) == ["a", "b"]
    assert means["a"].tolist() == [0.0, -1.0]
    np.testing.assert_allclose(means["b"], [0.5**0.5, 0.5**0.5], rtol=1e-15)


def test_accuracy_counts_the_rows_that_are_nearest_to_their_own_class(scoring):
    means = {"a": np.array([1.0, 0.0]), "b": np.array([0.0, 1.0])}
    rows = np.array([[0.9, 0.1], [0.1, 0.9], [0.8, 0.6], [0.6, 0.8]])
    assert scoring.accuracy(means, rows, ["a", "b", "b", "b"]) == 0.75


def test_a_row_between_two_classes_goes_to_the_first_name(scoring):
    means = {"a": np.array([1.0, 0.0]), "b": np.array([0.0, 1.0])}
    assert scoring.accuracy(means, np.array([[0.5, 0.5]]), ["a"]) == 1.0


def test_labels_and_rows_must_be_equally_many(scoring):
    with pytest.raises(ValueError, match="zip"):
        scoring.accuracy({"a": np.array([1.0])}, np.array([[1.0], [1.0]]), ["a"])


@pytest.mark.parametrize(("merged", "kept"), [(0.5, 0.0), (0.75, 1.0), (0.6875, 0.75), (0.4375, -0.25), (1.0, 2.0)])
def test_gain_kept_is_the_merges_gain_over_the_parents(scoring, merged, kept):
    assert scoring.gain_kept(0.5, 0.75, merged) == kept


def test_every_template_is_spelled_out_with_every_topic_of_its_split(spelled):
    assert spelled("train") == [
        ("Where is the gate?", "ask"),
        ("Where is a bus?", "ask"),
        ("The gate or not?", "ask"),
        ("A bus or not?", "ask"),
        ("The gate is here.", "tell"),
        ("A bus is here.", "tell"),
    ]
    assert spelled("held_out") == [("Who saw the pool?", "ask")]
