"""The page of what `import fedstill` offers."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import fedstill
from docs.writers.markdown import code, describe, escape, first_line, page, read_attributes, table
from docs.writers.registries import key_of
from fedstill.common.config import Config
from fedstill.common.registry import Registry
from fedstill.server.api import Frames
from fedstill.server.commands.plan import DevicePlan
from fedstill.server.compare import Comparison
from fedstill.server.compress import Budget, Front

ENTRIES: dict[type, tuple[str, ...]] = {fedstill.FedDistill: ("state", "prepare", "start", "close")}
"""What a caller of a class uses, where the rest answers to a framework."""
RECORDS: tuple[type, ...] = (Frames, Comparison, Front, Budget, DevicePlan)


def write_python() -> str:
    """Writes every public name: signature, docstring, methods."""
    found = {name: getattr(fedstill, name) for name in fedstill.__all__ if name != "__version__"}
    registries = {name: one for name, one in found.items() if isinstance(one, Registry)}
    faults = {
        name: one for name, one in found.items() if isinstance(one, type) and issubclass(one, Exception)
    }
    modules = {name: one for name, one in found.items() if isinstance(one, ModuleType)}
    plain = {name: found[name] for name in found if name not in {*registries, *faults, *modules}}
    lines = [
        "`import fedstill` imports nothing heavy: each name is imported when it is first asked for. What",
        "lacks an extra raises `UsageError` with the command that brings it.",
    ]
    lines += ["", "## Functions"]
    for name, one in plain.items():
        if inspect.isroutine(one):
            lines += ["", *_describe_function(f"fedstill.{name}", one, level=3)]
    lines += ["", "## Classes"]
    for name, one in plain.items():
        if isinstance(one, type):
            lines += ["", *_describe_class(f"fedstill.{name}", one)]
    lines += ["", "## Records", "", "What functions take and give beside these."]
    for record in RECORDS:
        lines += ["", *_describe_class(record.__name__, record)]
    lines += ["", "## Registries", "", *_describe_registries(registries)]
    lines += ["", "## Errors", "", "All are told apart in [Errors and exit codes](errors.md).", ""]
    rows = [(code(f"fedstill.{name}"), escape(first_line(one))) for name, one in faults.items()]
    lines += table(("error", "what happened"), rows)
    for name, module in modules.items():
        lines += ["", f"## fedstill.{name}", "", *_describe_module(module)]
    return page("Python", "the docstrings of the public names", *lines)


def _describe_function(name: str, function: Any, *, level: int) -> list[str]:
    head = [
        f"{'#' * level} {name}",
        "",
        "```python",
        _write_signature(name.rpartition(".")[2], function),
        "```",
        "",
    ]
    return head + describe(inspect.getdoc(function) or "")


def _describe_class(name: str, kind: type) -> list[str]:
    lines = [f"### {name}", "", *describe(inspect.getdoc(kind) or "")]
    if issubclass(kind, Config):
        return [*lines, "", "Its fields are the tables of the [configuration](configuration.md)."]
    own = {key: value for key, value in vars(kind).items() if key in _documented(kind)}
    rows = _read_fields(kind)
    own = {key: own[key] for key in ENTRIES.get(kind, own) if key not in {name for name, *_ in rows}}
    properties = {key: value for key, value in own.items() if not inspect.isfunction(_reach(value))}
    rows += [(key, _write_gives(value), first_line(value)) for key, value in properties.items()]
    if rows:
        cells = [(code(key), code(kind_), escape(text)) for key, kind_, text in rows]
        lines += ["", *table(("attribute", "type", "what it is"), cells)]
    for key, value in own.items():
        if key not in properties:
            lines += ["", *_describe_function(f"{kind.__name__}.{key}", _reach(value), level=4)]
    return lines


def _documented(kind: type) -> set[str]:
    return {
        key
        for key, value in vars(kind).items()
        if not key.startswith("_") and getattr(_reach(value), "__doc__", None) and not _is_plain(value)
    }


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | tuple | dict)


def _read_fields(kind: type) -> list[tuple[str, str, str]]:
    described = {key: one.description or "" for key, one in getattr(kind, "model_fields", {}).items()}
    return [
        (key, annotation, described.get(key) or text)
        for key, (annotation, text) in read_attributes(kind).items()
        if key != "model_config"
    ]


def _write_gives(value: Any) -> str:
    function = getattr(value, "fget", None) or getattr(value, "func", value)
    return _write_type(inspect.signature(function).return_annotation)


def _reach(value: Any) -> Any:
    return value.__func__ if isinstance(value, classmethod | staticmethod) else value


def _describe_registries(registries: dict[str, Registry[Any]]) -> list[str]:
    rows = [
        (
            code(f"fedstill.{name}"),
            code(key_of(one)),
            code(one.group),
            f"[{len(one.built_in)}](registries.md)",
        )
        for name, one in registries.items()
    ]
    lines = [
        *describe(inspect.getdoc(Registry) or ""),
        "",
        *table(("registry", "what it names", "entry points", "built in"), rows),
    ]
    for name in ("register", "names", "known"):
        lines += ["", *_describe_function(f"Registry.{name}", getattr(Registry, name), level=3)]
    return lines


def _describe_module(module: ModuleType) -> list[str]:
    if module is fedstill.errors:
        return ["The whole tree of errors: [Errors and exit codes](errors.md)."]
    kinds = [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == module.__name__
    ]
    rows = [
        (code(kind.__name__), _name_fields(dataclasses.fields(kind)), escape(first_line(kind)))
        for kind in kinds
    ]
    return [*describe(module.__doc__ or ""), "", *table(("event", "fields", "when"), rows)]


def _name_fields(fields: Iterable[dataclasses.Field[Any]]) -> str:
    return ", ".join(code(field.name) for field in fields)


def _write_signature(name: str, function: Any) -> str:
    signature = inspect.signature(function)
    parts: list[str] = []
    is_keyword = False
    for one in signature.parameters.values():
        if one.name in ("self", "cls"):
            continue
        if one.kind is one.KEYWORD_ONLY and not is_keyword:
            parts.append("*")
            is_keyword = True
        annotation = "" if one.annotation is one.empty else f": {_write_type(one.annotation)}"
        equals = " = " if annotation else "="
        default = (
            ""
            if one.default is one.empty
            else f"{equals}{getattr(one.default, '__name__', repr(one.default))}"
        )
        parts.append(f"{one.name}{annotation}{default}")
    gives = signature.return_annotation
    end = "" if gives is signature.empty else f" -> {_write_type(gives)}"
    flat = f"{name}({', '.join(parts)}){end}"
    return (
        flat if len(flat) <= 90 else "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){end}"])
    )


def _write_type(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
