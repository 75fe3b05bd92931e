"""What runs artefacts: a registry, by the name that a manifest gives as its `runtime`.

To add one, write a module with a `Runtime` in its `BUILT_IN`. A runtime whose library
may be missing imports it inside `open` and raises `ArtefactError` naming the extra.
"""

from __future__ import annotations

from typing import Any

from fedstill.common.compressors.exporters import EXPORTERS
from fedstill.common.errors import ArtefactError, ConfigError, unknown_name
from fedstill.common.modules import is_reference
from fedstill.common.registry import Registry, gather, require_kind
from fedstill.common.runtimes.records import Runtime

__all__ = ["RUNTIMES", "Runtime", "get_runtime"]


def _as_runtime(found: Any, name: str) -> Runtime:
    runtime: Runtime = require_kind(found, name, Runtime, key="runtime")
    return runtime


RUNTIMES: Registry[Runtime] = Registry(
    "runtime",
    "fedstill.runtimes",
    gather(__name__),
    _as_runtime,
)


def get_runtime(name: str) -> Runtime:
    """Looks a runtime up by the name in an artefact's manifest; raises `ArtefactError` with the known ones.

    An artefact is data from anywhere: no module is imported by its word, unless this process's own
    configuration exports for that very runtime.
    """
    try:
        if is_reference(name) and not EXPORTERS.knows(name):
            raise unknown_name(RUNTIMES.key, name, RUNTIMES.names())
        return RUNTIMES[name]
    except ConfigError as error:
        raise ArtefactError(f"the artefact cannot be run here: {error} Upgrade fedstill") from None
