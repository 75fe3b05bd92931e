"""Runs ONNX graphs on the CPU: what a device, and a coordinator, predict with."""

from __future__ import annotations

import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession, SessionOptions


def open_session(model: bytes, *, num_threads: int = 1) -> InferenceSession:
    """Opens a model in ONNX Runtime on the CPU.

    Args:
        model: A serialised ONNX graph.
        num_threads: Threads inside one operator.

    Returns:
        The session.
    """
    options = SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return InferenceSession(model, options, providers=["CPUExecutionProvider"])


def predict_probabilities(session: InferenceSession, x_S: np.ndarray, *, batch_size: int = 256) -> np.ndarray:
    """Runs a model over raw samples.

    Args:
        session: What `open_session` returned.
        x_S: Raw samples (S, *sample_shape) of the type that the model takes.
        batch_size: Samples per call.

    Returns:
        Probabilities (S, C), float32; each row adds up to 1.
    """
    name = session.get_inputs()[0].name
    num_classes = session.get_outputs()[0].shape[-1]
    logits = [
        session.run(None, {name: np.ascontiguousarray(x_S[start : start + batch_size])})[0]
        for start in range(0, len(x_S), batch_size)
    ]
    if not logits:
        return np.zeros((0, num_classes), np.float32)
    logits_SC = np.concatenate(logits).astype(np.float64)
    exponentials = np.exp(logits_SC - logits_SC.max(axis=1, keepdims=True))
    probabilities: np.ndarray = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities.astype(np.float32)


def measure_latency(
    session: InferenceSession,
    x_S: np.ndarray,
    *,
    batch_size: int = 1,
    num_warmup: int = 20,
    num_runs: int = 200,
    budget_seconds: float = 0.5,
) -> float:
    """Measures the time of one prediction, at batch 1 unless told otherwise.

    Args:
        session: Model to run.
        x_S: Raw samples; the first ones are used.
        batch_size: Samples per prediction.
        num_warmup: Runs before the clock starts.
        num_runs: Runs at most.
        budget_seconds: Measuring stops after this long, five runs made at least.

    Returns:
        The median, seconds.
    """
    name = session.get_inputs()[0].name
    feed = {name: np.ascontiguousarray(x_S[:batch_size])}
    end = time.perf_counter() + budget_seconds
    for _ in range(num_warmup):
        session.run(None, feed)
    seconds: list[float] = []
    while len(seconds) < num_runs and (len(seconds) < 5 or time.perf_counter() < end):
        start = time.perf_counter()
        session.run(None, feed)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


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
