"""The suite's graphs are valid ONNX, compute what they say, and run in integer kernels where they should."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from fedstill.common.devices.graphs import NUM_MACS, SAMPLE_SHAPE, build_graph
from fedstill.common.devices.suite import measure_quiet_latency, run_suite
from fedstill.common.inference import open_graph


@pytest.mark.parametrize("bits", [32, 8])
def test_graph_is_valid_onnx(bits: int) -> None:
    onnx.checker.check_model(onnx.load_from_string(build_graph(bits=bits)), full_check=True)


def test_float_graph_computes_its_convolutions() -> None:
    # Constant inputs and weights: away from the border each layer is a product of counts.
    predict = open_graph(build_graph(bits=32))
    logits = predict(np.ones((2, *SAMPLE_SHAPE), np.float32))
    assert logits.shape == (2, 10)
    centre = (9 * 0.001) * (9 * 32 * 0.001) * (9 * 64 * 0.001)
    assert logits.min() > 0
    assert logits.max() < centre * 49 * 64 * 0.001
    np.testing.assert_allclose(logits[0], logits[1])


def test_macs_are_counted_by_hand() -> None:
    assert NUM_MACS == 784 * 9 * 32 + 196 * 9 * 32 * 64 + 49 * 9 * 64 * 64 + 49 * 64 * 10


def test_eight_bit_graph_is_a_quarter_of_the_size() -> None:
    assert len(build_graph(bits=8)) < 0.3 * len(build_graph(bits=32))


def test_suite_measures_every_figure() -> None:
    speed = run_suite(budget_seconds=0.02)
    assert speed.fp32_macs_per_second == pytest.approx(NUM_MACS / speed.fp32_seconds_batch1)
    assert speed.int8_macs_per_second == pytest.approx(NUM_MACS / speed.int8_seconds_batch1)
    assert speed.fp32_seconds_batch64 > speed.fp32_seconds_batch1


def test_quiet_latency_is_positive() -> None:
    predict = open_graph(build_graph(bits=8))
    assert (
        0 < measure_quiet_latency(predict, np.zeros(SAMPLE_SHAPE, np.float32)[None], budget_seconds=0.02) < 1
    )
