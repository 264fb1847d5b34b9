"""What a record names beside itself: all facts of a base, and the report of a merge, each a blob of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.format.facts import BaseFacts
from engine.format.fingerprint import layout
from registry.values.strictjson import (
    SCHEMA,
    canonical_json,
    check_schema,
    expect_object,
    is_count,
    is_digest_text,
    is_number,
    is_text,
    parse_canonical,
    refuse,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry.models import Base

_BASE_TEXTS = {"architecture": 256, "model_type": 128, "dtype": 32, "quantization": 64}


@dataclass(frozen=True, slots=True)
class Report:
    """What a merge left beside its files: its report, and singular values by module."""

    report: Mapping[str, Any] | None = None
    spectra: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def base_bytes(base: Base) -> bytes:
    """A base's facts as canonical JSON; its names are not among them, so equal bases are equal bytes."""
    texts = {key: getattr(base, key) for key in ("fingerprint", "layout", *_BASE_TEXTS)}
    documents = {"parameters": json.loads(base.parameters), "config": json.loads(base.config)}
    return canonical_json({"schema": SCHEMA, "kind": "base", "tensors": base.tensors, **texts, **documents})


def parse_base(content: bytes) -> BaseFacts:
    """The facts in some bytes; UsageError where they are none, or where the layout is not that of the parameters."""
    needed = {"schema", "kind", "tensors", "fingerprint", "layout", "parameters", "config", *_BASE_TEXTS}
    document = expect_object(parse_canonical(content, "base"), needed, "base", more=True)
    check_schema(document, "base")
    if document["kind"] != "base":
        refuse("base", f"is of kind {document['kind']!r}")
    if not all(is_text(document[key], longest) for key, longest in _BASE_TEXTS.items()):
        refuse("base", f"one of {', '.join(_BASE_TEXTS)} is no text")
    if document["fingerprint"] is not None and not is_digest_text(document["fingerprint"]):
        refuse("base", "fingerprint is no digest")
    if not is_count(document["tensors"]) or document["tensors"] >= 2**31 or not isinstance(document["config"], dict):
        refuse("base", "tensors is no count, or config no object")
    parameters = _parameters(document["parameters"])
    if document["layout"] != layout(parameters):
        refuse("base", "layout is not that of the parameters")
    texts = {key: document[key] for key in ("fingerprint", "layout", *_BASE_TEXTS)}
    return BaseFacts(parameters=parameters, tensors=document["tensors"], config=document["config"], **texts)


def report_bytes(documents: Mapping[str, str]) -> bytes | None:
    """The report and the spectra among a version's documents as canonical JSON; None where there are neither."""
    report = json.loads(documents["report"]) if "report" in documents else None
    modules = json.loads(documents.get("modules", "[]"))
    spectra = {module["name"]: module["spectrum"] for module in modules if module.get("spectrum")}
    if report is None and not spectra:
        return None
    return canonical_json({"schema": SCHEMA, "kind": "report", "report": report, "spectra": spectra})


def parse_report(content: bytes) -> Report:
    """The report in some bytes; UsageError where it is none."""
    needed = {"schema", "kind", "report", "spectra"}
    document = expect_object(parse_canonical(content, "report"), needed, "report", more=True)
    check_schema(document, "report")
    report, spectra = document["report"], document["spectra"]
    if document["kind"] != "report" or not isinstance(report, (dict, type(None))) or not isinstance(spectra, dict):
        refuse("report", "report or spectra is no object")
    for values in spectra.values():
        if not isinstance(values, list) or not all(map(is_number, values)):
            refuse("report", "a spectrum is no list of numbers")
    return Report(report, {name: tuple(map(float, values)) for name, values in spectra.items()})


def _parameters(value: object) -> dict[str, tuple[int, ...]]:
    if not isinstance(value, dict):
        refuse("base", "parameters is no object")
    for shape in value.values():
        if not isinstance(shape, list) or not all(map(is_count, shape)):
            refuse("base", "a parameter's shape is no list of counts")
    return {path: tuple(shape) for path, shape in value.items()}
