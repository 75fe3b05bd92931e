"""Options as if they had been measured: a ladder of three students, in floats and in 8 bits."""

from __future__ import annotations

from typing import Any

import pytest

from fedstill.common.compressors import make_plan
from fedstill.common.devices import DeviceProfile, parse_profile
from fedstill.server.planner.candidates import Candidate
from fedstill.server.planner.choice import Choice, Conditions, Option, choose_option

FP32 = make_plan(steps="", bits=32)
INT8 = make_plan(steps="quantise", bits=8)
PROFILE = """
name = "shed"
flash_bytes = 30_000
memory_bytes = 1_000_000
latency_budget_seconds = 0.01
runtimes = ["onnxruntime"]
arithmetic = ["fp32", "int8"]
[speed]
fp32_macs_per_second = 1e9
int8_macs_per_second = 1e9
source = "a test"
"""


class GivenFront:
    """A front whose figures are given instead of measured; choosing is the real thing."""

    def __init__(self, options: list[Option]) -> None:
        self._options = options

    def find(self, candidate: Candidate) -> Option | None:
        return next((option for option in self._options if option.candidate == candidate), None)

    def try_out(self, options: list[Option]) -> None:
        pass

    def choose(self, profile: DeviceProfile, conditions: Conditions) -> Choice:
        return choose_option(self._options, profile, conditions)


def make_option(width: float, *, bits: int = 32, **figures: Any) -> Option:
    """A student of some width: ten kilobytes in floats at width 1, a quarter in 8 bits, half as slow."""
    num_bytes = int(40_000 * width) if bits == 32 else int(10_000 * width)
    latency = 0.004 * width if bits == 32 else 0.002 * width
    values = {
        "artefact_bytes": num_bytes,
        "memory_bytes": 2 * num_bytes,
        "num_parameters": int(10_000 * width),
        "num_macs": int(1e6 * width),
        "latency_seconds": latency,
        "fp32_latency_seconds": 0.004 * width,
        "step_seconds": 0.01 * width,
        "accuracy": 0.8 + 0.05 * width - (0.01 if bits == 8 else 0.0),
    }
    return Option(Candidate("cnn-tiny", width, FP32 if bits == 32 else INT8), **(values | figures))


@pytest.fixture
def profile() -> DeviceProfile:
    return parse_profile(PROFILE, origin="test")


@pytest.fixture
def ladder() -> list[Option]:
    return [make_option(width, bits=bits) for width in (0.5, 1.0, 2.0) for bits in (32, 8)]


@pytest.fixture
def front(ladder: list[Option]) -> GivenFront:
    return GivenFront(ladder)
