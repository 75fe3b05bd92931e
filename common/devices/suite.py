"""How fast this machine is: fixed graphs on one thread, the same on every device.

What a profile says of a device's speed and what the planner measures of its own host come
from here, so that the two can be divided by each other.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from fedstill.common.devices.graphs import NUM_MACS, SAMPLE_SHAPE, build_graph
from fedstill.common.inference import Predictor, measure_latency, open_graph

LARGE_BATCH = 64
_NUM_BLOCKS = 5


@dataclass(frozen=True)
class HostSpeed:
    """The suite's figures on this machine, one thread of ONNX Runtime."""

    fp32_macs_per_second: float
    int8_macs_per_second: float
    fp32_seconds_batch1: float
    int8_seconds_batch1: float
    fp32_seconds_batch64: float
    int8_seconds_batch64: float


def measure_quiet_latency(predict: Predictor, x_S: np.ndarray, *, budget_seconds: float = 0.5) -> float:
    """Measures one prediction at batch 1 on a machine that has other things to do.

    Args:
        predict: Model to run.
        x_S: Raw samples; the first one is used.
        budget_seconds: Time spent in all, about.

    Returns:
        The lowest of five medians, seconds: other work slows some blocks and hardly ever all.
    """
    return min(
        measure_latency(predict, x_S, num_warmup=5, num_runs=60, budget_seconds=budget_seconds / _NUM_BLOCKS)
        for _ in range(_NUM_BLOCKS)
    )


def run_suite(*, budget_seconds: float = 0.5) -> HostSpeed:
    """Runs the fixed graphs in floats and in 8 bits, at batch 1 and 64.

    Args:
        budget_seconds: Time for each of the four figures, about.

    Returns:
        Latencies and multiply-adds per second at batch 1.
    """
    x_S = np.zeros((LARGE_BATCH, *SAMPLE_SHAPE), np.float32)
    seconds = {}
    for bits in (32, 8):
        predict = open_graph(build_graph(bits=bits))
        seconds[bits, 1] = measure_quiet_latency(predict, x_S, budget_seconds=budget_seconds)
        seconds[bits, LARGE_BATCH] = _measure_large_batch(predict, x_S, budget_seconds=budget_seconds)
    return HostSpeed(
        fp32_macs_per_second=NUM_MACS / seconds[32, 1],
        int8_macs_per_second=NUM_MACS / seconds[8, 1],
        fp32_seconds_batch1=seconds[32, 1],
        int8_seconds_batch1=seconds[8, 1],
        fp32_seconds_batch64=seconds[32, LARGE_BATCH],
        int8_seconds_batch64=seconds[8, LARGE_BATCH],
    )


def _measure_large_batch(predict: Predictor, x_S: np.ndarray, *, budget_seconds: float) -> float:
    return measure_latency(
        predict, x_S, batch_size=LARGE_BATCH, num_warmup=2, num_runs=20, budget_seconds=budget_seconds
    )


@functools.lru_cache(maxsize=1)
def host_speed() -> HostSpeed:
    """Runs the suite once per process."""
    return run_suite()
