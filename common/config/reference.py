"""The annotated reference of every key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tomli_w

from fedstill.common.config.schema import Config, sections
from fedstill.common.config.section import Section


def reference() -> str:
    """Writes the annotated reference: every key, its meaning, its range and its default."""
    lines = ["# FedStill's configuration: every key with its default.", ""]
    lines += _describe_fields(Config, skip=set(sections()))
    for name, section in sections().items():
        lines += ["", f"[{name}]", f"# {(section.__doc__ or '').strip()}"]
        lines += _describe_fields(section, skip=set())
    return "\n".join(lines) + "\n"


def _describe_fields(section: type[Section], *, skip: set[str]) -> list[str]:
    lines = []
    schema = section.model_json_schema(by_alias=True)["properties"]
    for name, field in section.model_fields.items():
        if name in skip:
            continue
        key = field.alias or name
        limits = describe_limits(schema[key])
        lines.append(f"# {field.description}{f' ({limits})' if limits else ''}")
        lines.append(tomli_w.dumps({key: field.default}).strip())
    return lines


def describe_limits(schema: Mapping[str, Any]) -> str:
    """Says what a key may be, from its JSON Schema, as "≥ 0, < 1"; empty where there is no limit."""
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[name]}" for name, sign in signs.items() if name in schema]
    choices = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    if choices:
        limits.append("one of " + ", ".join(str(choice) for choice in choices))
    return ", ".join(limits)
