"""What the registry of runtimes holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from fedstill.common.inference import Predictor


class OpenModel(Protocol):
    """Opens the files of an artefact; any exception says that they cannot be run."""

    def __call__(
        self, files: Mapping[str, bytes], *, num_threads: int, options: Mapping[str, str]
    ) -> Predictor: ...


@dataclass(frozen=True)
class Runtime:
    """One entry: the file that has to be there, what opens it, and its ONNX graph where it has one."""

    title: str
    """What latencies and errors call it."""
    model_file: str
    open: OpenModel
    to_graph: Callable[[Mapping[str, bytes]], bytes] | None = None
    """From the files to a serialised ONNX graph, for those who look inside; None: there is none."""
    export: Callable[[Any], Any] | None = None
    """From an `ExportJob` to an `ExportedModel` of this runtime, where `compress.runtime` may name it."""
