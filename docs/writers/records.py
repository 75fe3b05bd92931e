"""The page of `summary.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from docs.writers.markdown import code, escape, page, table
from fedstill.server.run.summary import json_schema

WORDS = {"number": "number", "integer": "whole number", "string": "text", "boolean": "true or false"}


def write_summary() -> str:
    """Writes every field of the summary, record by record."""
    schema = json.loads(json_schema())
    lines = [
        "What a finished run says about itself, in its folder. The JSON Schema is shipped:",
        "`server/run/summary.schema.json`. In Python, `fedstill.read_run(folder).summary` has these fields.",
        "",
        *_describe(schema),
    ]
    for name, record in sorted(schema["$defs"].items()):
        lines += ["", f"## {name}", "", *_describe(record)]
    return page("summary.json", "server/run/summary.py", *lines)


def _describe(record: Mapping[str, Any]) -> list[str]:
    rows = [
        (code(name), _name_type(field), escape(field.get("description", "")))
        for name, field in record["properties"].items()
    ]
    text = record.get("description", "")
    return [escape(text), "", *table(("field", "type", "meaning"), rows)]


def _name_type(field: Mapping[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in field:
        kinds = [_name_type(kind) for kind in field["anyOf"] if kind.get("type") != "null"]
        return ", ".join(kinds) + ", or null"
    kind = field.get("type")
    if kind == "array":
        return f"list of {_name_type(field.get('items', {}))}"
    if kind == "object":
        return f"by name: {_name_type(field.get('additionalProperties', {}))}"
    if "const" in field:
        return code(json.dumps(field["const"]))
    return WORDS.get(str(kind), "anything")
