"""Which of a configuration's values are names, and which files of the user's stand behind them."""

from __future__ import annotations

from pathlib import Path

from fedstill.common.config.reading import flatten
from fedstill.common.config.schema import Config
from fedstill.common.modules import is_reference, list_files

NAMING_KEYS = (
    "data.source",
    "teacher.model",
    "teacher.factory",
    "student.model",
    "distill.loss",
    "compress.runtime",
    "federation.scheme",
    "federation.partitioner",
    "federation.aggregator",
    "exchange.codec",
)
"""Keys that take a built-in name, an entry point's, or `module:function`."""


def list_references(config: Config) -> tuple[str, ...]:
    """Lists every `module:function` that a configuration names, sorted."""
    values = flatten(config)
    names = {part.strip() for key in NAMING_KEYS for part in str(values[key]).split(",")}
    return tuple(sorted(name for name in names if is_reference(name) and not name.startswith("hf:")))


def list_user_files(config: Config) -> dict[str, Path]:
    """Lists the files of the user's modules that a configuration names, and what these import.

    Whoever sends a run elsewhere sends these along: to a cluster's machines, or in an app bundle, whose
    folder `fedstill.common.modules.BUNDLE_FOLDER` is where a device looks for them.

    Returns:
        Files by their path relative to the folder in which they are found, sorted; installed modules
        are not among them.
    """
    return list_files(list_references(config))
