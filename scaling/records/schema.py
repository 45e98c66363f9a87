"""JSON Schema of the record's files, generated from their types: ``python -m scaling.records.schema`` rewrites it."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import msgspec

from scaling.records import write_json
from scaling.records.types import SCHEMA, AnyRow, EvaluationRecord, Manifest, Result, StudyRecord

FILE = Path(__file__).parent / "record.schema.json"
FILES = {
    "manifest.json": Manifest,
    "result.json": Result,
    "study.json": StudyRecord,
    "a line of metrics.jsonl": AnyRow,
    "evaluations/IDENTITY.json": EvaluationRecord,
}


def json_schema() -> dict[str, Any]:
    """One schema for all files: ``properties`` has one entry per file, ``$defs`` every type."""
    schemas, components = msgspec.json.schema_components(FILES.values(), ref_template="#/$defs/{name}")
    for component in components.values():
        if "description" in component:  # from a docstring, which Python 3.13 indents differently from 3.11
            component["description"] = inspect.cleandoc(component["description"])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Files of a work directory, schema {SCHEMA}",
        "properties": dict(zip(FILES, schemas)),
        "$defs": components,
    }


if __name__ == "__main__":
    write_json(FILE, json_schema())
