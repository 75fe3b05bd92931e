"""`executorch`: a `.pte` program for the runtime that PyTorch has for devices.

The program takes one sample, as a device has it; a larger batch is as many runs, which on one
thread costs what a program of that batch would cost, and keeps the planned memory small.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedstill.common.errors import ArtefactError
from fedstill.common.inference import Predictor
from fedstill.common.installation import install_command
from fedstill.common.runtimes.records import Runtime

MODEL_FILE = "model.pte"
# ExecuTorch's numbers for element types (c10::ScalarType).
_DTYPES = {0: "uint8", 2: "int16", 6: "float32"}


@dataclass(frozen=True)
class ExecutorchPredictor:
    """A program in ExecuTorch."""

    program: Any
    content: bytes
    """What the program reads its weights from: ExecuTorch keeps the address and no reference."""
    sample: Any
    """The tensor (1, *sample_shape) that the program reads."""
    sample_shape: tuple[int, ...]
    dtype: str
    num_classes: int

    def __call__(self, x_S: np.ndarray) -> np.ndarray:
        """Runs the program once per sample."""
        feed, place = (self.sample,), self.sample.numpy()
        logits_SC = np.empty((len(x_S), self.num_classes), np.float32)
        for row, x in zip(logits_SC, x_S, strict=True):
            place[0] = x
            row[:] = self.program.forward(feed, clone_outputs=False)[0].numpy()[0]
        return logits_SC


def load_library() -> tuple[Any, Any]:
    """Loads torch and ExecuTorch's bindings; raises `ArtefactError` where they are missing."""
    # By name: the base install has no torch, and what predicts with ONNX Runtime must not ask for it.
    try:
        torch = importlib.import_module("torch")
        with _silent():
            return torch, importlib.import_module("executorch.extension.pybindings._C")
    except ImportError as error:
        raise ArtefactError(
            f"the artefact runs in ExecuTorch, which is not installed ({error}): {install_command('edge')}"
        ) from None


def _open(files: Mapping[str, bytes], *, num_threads: int, options: Mapping[str, str]) -> Predictor:
    del options
    torch, bindings = load_library()
    with _silent():
        if bindings._threadpool_get_thread_count() != num_threads:
            bindings._unsafe_reset_threadpool(num_threads)
        content = files[MODEL_FILE]
        program = bindings._load_for_executorch_from_buffer(content)
    meta = program.method_meta("forward")
    takes, gives = meta.input_tensor_meta(0), meta.output_tensor_meta(0)
    if meta.num_inputs() != 1 or meta.num_outputs() != 1 or len(gives.sizes()) != 2 or takes.sizes()[0] != 1:
        raise ValueError("expected one input of one sample and one output of logits (1, classes)")
    dtype = _DTYPES.get(takes.dtype(), f"type {takes.dtype()}")
    sample = torch.zeros(takes.sizes(), dtype=getattr(torch, dtype))
    return ExecutorchPredictor(program, content, sample, tuple(takes.sizes()[1:]), dtype, gives.sizes()[1])


@contextmanager
def _silent() -> Iterator[None]:
    # The library writes what it finds out about the processor to standard error, past Python.
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


EXECUTORCH = Runtime("ExecuTorch", MODEL_FILE, _open)

BUILT_IN = {"executorch": EXECUTORCH}
