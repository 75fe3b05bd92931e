"""The page of what a configuration can name."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from docs.writers.markdown import code, escape, first_line, page, table
from fedstill.common.codecs import Codec
from fedstill.common.models.registry import ModelFamily
from fedstill.common.registry import Registry
from fedstill.server.commands.listing import KINDS
from fedstill.server.schemes import Scheme

KEYS = {
    "aggregator": "federation.aggregator",
    "codec": "exchange.codec",
    "model": "student.model",
    "partitioner": "federation.partitioner",
    "runtime": "compress.runtime",
}
"""The key that takes a name, where the registry's own word for it is none."""


def key_of(registry: Registry[Any]) -> str:
    """Names the key of the configuration that takes a registry's names."""
    return KEYS.get(registry.key, registry.key)


def write_registries() -> str:
    """Writes every built-in name of every registry."""
    lines = [
        "A key that names a thing takes a built-in name of this page, the name of an entry point",
        "of an installed package, or `module:function`. `fedstill list` shows what is known where you are,",
        "and where each is from; [Things of your own](../own.md) says what a thing of your own has to be.",
    ]
    for kind, registry in KINDS.items():
        lines += [
            "",
            f"## {kind}",
            "",
            f"Key `{key_of(registry)}`, entry points `{registry.group}`.",
            "",
            *_table(registry),
        ]
    return page("Names", "the registries", *lines)


def _table(registry: Registry[Any]) -> list[str]:
    entries = [(name, registry[name]) for name in registry.built_in]
    columns, _ = _cells(entries[0][1])
    return table(("name", *columns), ((code(name), *_cells(entry)[1]) for name, entry in entries))


def _cells(entry: Any) -> tuple[Sequence[str], Sequence[str]]:
    if isinstance(entry, Scheme):
        return ("teacher", "public set", "nodes send", "students have alike"), (
            "yes" if entry.has_teacher else "–",
            "yes" if entry.uses_public else "–",
            {"public": "logits of public samples", "classes": "mean logits of classes"}.get(
                entry.rows, entry.rows and f"{entry.rows} of classes".replace("weights of classes", "weights")
            )
            or "–",
            entry.shares or "–",
        )
    if isinstance(entry, ModelFamily):
        return ("takes", "what it is"), (", ".join(entry.tasks), escape(first_line(entry.build)))
    if isinstance(entry, Codec):
        module = inspect.getmodule(inspect.unwrap(getattr(entry.encode, "func", entry.encode)))
        return ("how logits are written",), (escape(first_line(module)),)
    return ("what it does",), (escape(first_line(entry)),)
