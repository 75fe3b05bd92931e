"""What runs artefacts: a registry, by the name that a manifest gives as its `runtime`.

To add one, write a module with a `Runtime` and enter it here. A runtime whose library
may be missing imports it inside `open` and raises `ArtefactError` naming the extra.
"""

from __future__ import annotations

from fedstill.common.errors import ArtefactError
from fedstill.common.runtimes.executorch_program import EXECUTORCH
from fedstill.common.runtimes.onnx_graph import ONNX_RUNTIME
from fedstill.common.runtimes.packed import PACKED_RUNTIME
from fedstill.common.runtimes.records import Runtime

__all__ = ["RUNTIMES", "Runtime", "get_runtime"]

RUNTIMES: dict[str, Runtime] = {
    "executorch": EXECUTORCH,
    "onnxruntime": ONNX_RUNTIME,
    "packed": PACKED_RUNTIME,
}


def get_runtime(name: str) -> Runtime:
    """Looks a runtime up by name; raises `ArtefactError` with the known ones."""
    if name not in RUNTIMES:
        raise ArtefactError(
            f"expected a runtime of {', '.join(RUNTIMES)}, the artefact wants {name!r}: upgrade fedstill"
        )
    return RUNTIMES[name]
