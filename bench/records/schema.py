"""The JSON Schema of a record is generated from its models, for readers in other languages.

``python -m bench.records.schema`` writes it anew after a model has changed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from bench.records.record import SCHEMA_VERSION, Record
from quantcore import files

FILE = Path(__file__).with_name("record.schema.json")

_MEASURED = {"properties": {"status": {"enum": ["done", "partial"]}}}
_CONDITIONS = [
    {
        "if": _MEASURED,
        "then": {
            "properties": {
                "error": {"type": "null"},
                "metrics": {"minProperties": 1},
                "stored_bytes": {"type": "integer"},
                "seconds": {"required": ["evaluate"]},
            }
        },
        "else": {"properties": {"error": {"type": "string"}, "metrics": {"maxProperties": 0}}},
    },
    {
        "if": {"properties": {"status": {"const": "done"}}},
        "then": {"properties": {"failures": {"maxProperties": 0}}},
    },
    {
        "if": {"properties": {"status": {"const": "partial"}}},
        "then": {"required": ["failures"], "properties": {"failures": {"minProperties": 1}}},
    },
    {
        "if": {"properties": {"cell": {"properties": {"method": {"type": "null"}}}}},
        "then": {
            "properties": {
                "cell": {
                    "properties": {"scheme": {"type": "null"}, "calibration": {"type": "null"}}
                },
                "quantization": {"maxProperties": 0},
                "bits_per_weight": {"type": "null"},
            }
        },
        "else": {
            "properties": {"cell": {"properties": {"scheme": {"type": "string"}}}},
            "if": _MEASURED,
            "then": {
                "properties": {
                    "quantization": {"minProperties": 1},
                    "bits_per_weight": {"type": "number"},
                    "seconds": {"required": ["quantize", "fold", "round", "own_calibration"]},
                }
            },
        },
    },
]
"""They say what `bench.records.record.Record` checks of fields that must agree."""


def schema() -> dict[str, Any]:
    """Generate the JSON Schema of a record, with what a document has around one."""
    content: JsonSchemaValue = _plain(Record.model_json_schema())
    definitions = content.pop("$defs")
    content["properties"] = {
        "schema_version": {
            "const": SCHEMA_VERSION,
            "description": "Version of this format. It rises when an old reader would misread a "
            "new record; a field that may be absent does not raise it.",
        },
        "sha256": {
            "type": "string",
            "pattern": "^[0-9a-f]{64}$",
            "description": "Over all else in the document, as JSON with sorted keys. Not in a "
            "record within a baseline, which has one of its own.",
        },
        "cell_id": {
            "type": "string",
            "pattern": "^[0-9a-f]{16}$",
            "description": "First 16 hex digits of the sha256 over the cell, as JSON with sorted "
            "keys. A record whose cell does not match it was edited, and is refused.",
        },
        **content["properties"],
    }
    content["required"] = ["schema_version", "cell_id", *content["required"]]
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        "$id": f"urn:awq-bench:record:{SCHEMA_VERSION}",
        **content,
        "title": f"Record of one cell, version {SCHEMA_VERSION}",
        "allOf": _CONDITIONS,
        "$defs": definitions,
    }


def _plain(part: Any) -> Any:
    """Leave out titles, which only repeat names, and the line breaks of docstrings."""
    if isinstance(part, list):
        return [_plain(entry) for entry in part]
    if not isinstance(part, dict):
        return part
    plain = {name: _plain(value) for name, value in part.items()}
    if isinstance(plain.get("title"), str):
        del plain["title"]
    if isinstance(plain.get("description"), str):
        plain["description"] = " ".join(plain["description"].split())
    return plain


if __name__ == "__main__":
    files.write_text(FILE, json.dumps(schema(), indent=2) + "\n")
