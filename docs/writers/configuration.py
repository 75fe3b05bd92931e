"""The page of the configuration."""

from __future__ import annotations

import tomli_w

from docs.writers.markdown import code, escape, page, table
from fedstill.common.config import Config
from fedstill.common.config.reference import describe_limits
from fedstill.common.config.schema import sections
from fedstill.common.config.section import Section

TYPES = {"string": "text", "number": "number", "integer": "whole number", "boolean": "true or false"}


def write_configuration() -> str:
    """Writes every key: type, range, default, meaning."""
    tables = sections()
    lines = [
        "One TOML file: `seed` at its top, then the tables below. `fedstill config` prints the same, ready",
        "to be changed; `--set distill.temperature=2` goes over the file. A key that is not here is an error",
        "that names the nearest one.",
        "",
        *_table(Config, prefix="", skip=set(tables)),
    ]
    for name, section in tables.items():
        lines += ["", f"## {name}", "", escape(section.__doc__ or "")]
        if section.model_fields:
            lines += ["", *_table(section, prefix=f"{name}.", skip=set())]
    return page("Configuration", "common/config/", *lines)


def _table(section: type[Section], *, prefix: str, skip: set[str]) -> list[str]:
    schema = section.model_json_schema(by_alias=True)["properties"]
    rows = []
    for name, field in section.model_fields.items():
        if name in skip:
            continue
        key = field.alias or name
        default = field.default
        kind = TYPES[schema[key].get("type", "string" if isinstance(default, str) else "integer")]
        limits = escape(describe_limits(schema[key]).replace(str(2**63), "2⁶³"))
        written = str(default).lower() if isinstance(default, bool) else tomli_w.dumps({"x": default})[4:-1]
        values = f"{kind}: {limits}" if limits else kind
        rows.append((code(prefix + key), code(written), values, escape(field.description or "")))
    return table(("key", "default", "type and range", "meaning"), rows)
