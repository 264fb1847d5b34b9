"""What config.json says of a head, and how many labels one may have."""

import pytest

from engine.materialize.matching.labels import counts, head_settings, labels_of


@pytest.mark.parametrize(
    ("config", "count"),
    [
        ({}, 2),
        ({"num_labels": 7}, 7),
        ({"num_labels": "7"}, 2),
        ({"id2label": None}, 2),
        ({"id2label": {}}, 0),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, 3),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}, "num_labels": 7}, 7),
    ],
)
def test_a_config_tells_labels_by_their_number_or_their_names_and_means_two(config, count):
    assert labels_of(config) == count


def test_the_config_s_own_number_is_tried_first():
    """A pooler has as many rows as the model is wide: that is no number of labels where the own one fits."""
    assert counts({"num_labels": 5}, [768, 3, 5]) == (5, 3, 768)


def test_sizes_that_no_table_of_labels_has_are_not_tried():
    assert counts({}, [0, 10**6, 10**6 + 1, 10**12]) == (2, 10**6)


def test_names_of_labels_follow_their_number():
    names = {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}
    assert head_settings({}, "A", 2) == {"architectures": ["A"]}
    assert head_settings({"id2label": {"0": "x"}}, "A", 2) == {"architectures": ["A"], **names}
    assert head_settings({"num_labels": 3}, "A", 2) == {"architectures": ["A"], "num_labels": 2, **names}
