"""What a record names beside itself, read back: what an export or a rebuild would not have written is refused."""

import json

import pytest

from engine.format.fingerprint import layout
from registry.errors import UsageError
from registry.records.enclosures import Report, parse_base, parse_report, report_bytes
from registry.values.strictjson import canonical_json

A = "sha256:" + "a" * 64
PARAMETERS = {"model.norm.weight": (4,), "scalar": ()}
BASE = {
    "schema": 1,
    "kind": "base",
    "tensors": 2,
    "fingerprint": A,
    "layout": layout(PARAMETERS),
    "architecture": "LlamaForCausalLM",
    "model_type": "llama",
    "dtype": None,
    "quantization": None,
    "parameters": {name: list(shape) for name, shape in PARAMETERS.items()},
    "config": {"hidden_size": 4},
}
REPORT = {"schema": 1, "kind": "report", "report": {"method": "svd"}, "spectra": {"q": [2, 0.5]}}


def test_a_base_is_read_with_shapes_as_tuples():
    found = parse_base(canonical_json(BASE))

    assert (found.parameters, found.tensors, found.fingerprint, found.config) == (
        PARAMETERS,
        2,
        A,
        {"hidden_size": 4},
    )
    assert (found.architecture, found.model_type, found.dtype, found.quantization) == (
        "LlamaForCausalLM",
        "llama",
        None,
        None,
    )


def test_fields_of_a_later_minor_version_are_passed_over():
    assert parse_base(canonical_json(BASE | {"more": 1})).tensors == 2
    assert parse_report(canonical_json(REPORT | {"more": 1})).report == {"method": "svd"}


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"kind": "report"},
        {"tensors": -1},
        {"tensors": 2**31},
        {"tensors": True},
        {"fingerprint": "sha256:A"},
        {"layout": A},
        {"layout": None},
        {"architecture": 3},
        {"architecture": "x" * 257},
        {"model_type": "a\0b"},
        {"dtype": "x" * 33},
        {"quantization": "x" * 65},
        {"config": []},
        {"parameters": []},
        {"parameters": {"w": 4}},
        {"parameters": {"w": [-1]}},
        {"parameters": {"w": [1.5]}},
        {"parameters": {"w": [True]}},
    ],
    ids=str,
)
def test_a_base_that_lies_is_refused(change):
    with pytest.raises(UsageError, match="base"):
        parse_base(canonical_json(BASE | change))


@pytest.mark.parametrize("missing", sorted(BASE))
def test_a_base_lacks_nothing(missing):
    with pytest.raises(UsageError, match="base"):
        parse_base(canonical_json({key: value for key, value in BASE.items() if key != missing}))


def test_a_report_is_read_with_spectra_as_floats():
    assert parse_report(canonical_json(REPORT)) == Report({"method": "svd"}, {"q": (2.0, 0.5)})


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"kind": "base"},
        {"report": []},
        {"spectra": []},
        {"spectra": {"q": 1}},
        {"spectra": {"q": ["1"]}},
        {"spectra": {"q": [True]}},
    ],
    ids=str,
)
def test_a_report_that_lies_is_refused(change):
    with pytest.raises(UsageError, match="report"):
        parse_report(canonical_json(REPORT | change))


@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 100_000, b'{"kind": "base"}', b"\xff", b'{"kind":NaN}'])
def test_what_is_neither_is_refused(content):
    for parse in (parse_base, parse_report):
        with pytest.raises(UsageError):
            parse(content)


def test_a_report_is_made_of_a_versions_documents():
    modules = [{"name": "q", "spectrum": [2, 0.5]}, {"name": "v", "spectrum": None}]

    content = report_bytes({"report": '{"method":"svd"}', "modules": json.dumps(modules)})

    assert content == canonical_json(REPORT)


@pytest.mark.parametrize("documents", [{}, {"modules": "[]"}, {"modules": '[{"name":"q","spectrum":null}]'}])
def test_a_version_without_report_and_spectra_has_no_such_blob(documents):
    assert report_bytes(documents) is None
