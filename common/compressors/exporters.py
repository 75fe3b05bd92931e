"""What `compress.runtime` may name: a registry of exporters that imports neither torch nor onnx itself."""

from __future__ import annotations

from typing import Any

from fedstill.common.registry import Deferred, Registry, require_callable


def _as_exporter(found: Any, name: str) -> Any:
    # A `Runtime` that knows how files are written for it, or a function that writes them for one of ours.
    signature = "a function from an ExportJob to an ExportedModel, or a Runtime with an `export`"
    return require_callable(
        getattr(found, "export", found), name, key="compress.runtime", signature=signature
    )


EXPORTERS: Registry[Any] = Registry(
    "compress.runtime",
    "fedstill.runtimes",
    {
        "onnx": Deferred("fedstill.common.compressors.exporting:export_onnx"),
        "executorch": Deferred("fedstill.common.compressors.exporting:export_executorch"),
    },
    _as_exporter,
)
"""Functions from an `ExportJob` to an `ExportedModel`, whose `runtime` is a name of `RUNTIMES`."""
