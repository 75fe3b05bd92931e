"""Runs models on the CPU: what a device, and a coordinator, predict with."""

from __future__ import annotations

import functools
import os
import platform
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from onnxruntime import InferenceSession, SessionOptions


class Predictor(Protocol):
    """A model that is open in some runtime: raw samples (S, *sample_shape) to logits (S, C) float32."""

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one raw sample."""

    @property
    def dtype(self) -> str:
        """NumPy name of the element type of raw samples."""

    @property
    def num_classes(self) -> int:
        """Logits per sample."""

    def __call__(self, x_S: np.ndarray) -> np.ndarray:
        """Runs the model on one batch of at least one sample."""


@dataclass(frozen=True)
class OnnxPredictor:
    """A graph in ONNX Runtime."""

    session: InferenceSession
    sample_shape: tuple[int, ...]
    dtype: str
    num_classes: int

    def __call__(self, x_S: np.ndarray) -> np.ndarray:
        """Runs the graph on one batch."""
        feed = {self.session.get_inputs()[0].name: np.ascontiguousarray(x_S)}
        logits: np.ndarray = self.session.run(None, feed)[0]
        return logits


def open_session(
    model: bytes, *, num_threads: int = 1, options: Mapping[str, str] | None = None
) -> InferenceSession:
    """Opens a model in ONNX Runtime on the CPU.

    Args:
        model: A serialised ONNX graph.
        num_threads: Threads inside one operator.
        options: Entries of ONNX Runtime's session configuration.

    Returns:
        The session.
    """
    settings = SessionOptions()
    settings.intra_op_num_threads = num_threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    for key, value in (options or {}).items():
        settings.add_session_config_entry(key, value)
    return InferenceSession(model, settings, providers=["CPUExecutionProvider"])


def open_graph(
    model: bytes, *, num_threads: int = 1, options: Mapping[str, str] | None = None
) -> OnnxPredictor:
    """Opens a graph from one array of raw samples to one of logits.

    Args:
        model: A serialised ONNX graph.
        num_threads: Threads inside one operator.
        options: Entries of ONNX Runtime's session configuration.

    Returns:
        The predictor.

    Raises:
        ValueError: A graph with other inputs or outputs.
    """
    session = open_session(model, num_threads=num_threads, options=options)
    takes, gives = session.get_inputs(), session.get_outputs()
    if len(takes) != 1 or len(gives) != 1 or len(gives[0].shape) != 2 or not takes[0].shape:
        raise ValueError("expected one input of samples and one output of logits (batch, classes)")
    kind = takes[0].type.removeprefix("tensor(").removesuffix(")")
    return OnnxPredictor(
        session, tuple(takes[0].shape[1:]), "float32" if kind == "float" else kind, gives[0].shape[-1]
    )


def predict_probabilities(predict: Predictor, x_S: np.ndarray, *, batch_size: int = 256) -> np.ndarray:
    """Runs a model over raw samples.

    Args:
        predict: A model that is open.
        x_S: Raw samples (S, *sample_shape) of the type that the model takes.
        batch_size: Samples per call.

    Returns:
        Probabilities (S, C), float32; each row adds up to 1.
    """
    logits = [predict(x_S[start : start + batch_size]) for start in range(0, len(x_S), batch_size)]
    if not logits:
        return np.zeros((0, predict.num_classes), np.float32)
    logits_SC = np.concatenate(logits).astype(np.float64)
    exponentials = np.exp(logits_SC - logits_SC.max(axis=1, keepdims=True))
    probabilities: np.ndarray = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities.astype(np.float32)


def measure_latency(
    predict: Predictor,
    x_S: np.ndarray,
    *,
    batch_size: int = 1,
    num_warmup: int = 20,
    num_runs: int = 200,
    budget_seconds: float = 0.5,
) -> float:
    """Measures the time of one prediction, at batch 1 unless told otherwise.

    Args:
        predict: A model that is open.
        x_S: Raw samples; the first ones are used.
        batch_size: Samples per run.
        num_warmup: Runs before the clock starts.
        num_runs: Runs at most.
        budget_seconds: Measuring stops after this long, five runs made at least.

    Returns:
        The median, seconds.
    """
    batch = np.ascontiguousarray(x_S[:batch_size])
    end = time.perf_counter() + budget_seconds
    for _ in range(num_warmup):
        predict(batch)
    seconds: list[float] = []
    while len(seconds) < num_runs and (len(seconds) < 5 or time.perf_counter() < end):
        start = time.perf_counter()
        predict(batch)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


@functools.cache
def describe_host() -> str:
    """Names this machine's processor and core count, and nothing that identifies it."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{model}, {os.cpu_count()} cores, {platform.system()}"
