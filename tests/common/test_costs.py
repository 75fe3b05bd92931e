"""Multiplications counted by hand, and memory measured in a process of its own."""

import pytest
from torch import nn

from fedstill.common.artefact import write_artefact
from fedstill.common.compressors.static_int8 import fold_constants
from fedstill.common.costs import count_macs, measure_peak_memory
from fedstill.common.errors import FedStillError
from fedstill.common.models import InputSpec
from fedstill.common.onnx_export import trace_model
from fedstill.common.runtimes.onnx_graph import MODEL_FILE

SPEC = InputSpec("tabular", (6,), "float32", "F", 1.0, (0.0,) * 6, (1.0,) * 6)


def test_macs_of_a_layer_are_those_counted_by_hand():
    assert (
        count_macs(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)), (6,), "float32")
        == 6 * 5 + 5 * 2
    )
    convolution = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(64, 7))
    assert count_macs(convolution, (3, 8, 8), "float32") == 4 * 3 * 9 * 4 * 4 + 64 * 7


def test_fewer_channels_are_fewer_macs():
    wide, narrow = (
        count_macs(nn.Sequential(nn.Conv2d(3, width, 3)), (3, 8, 8), "float32") for width in (8, 4)
    )
    assert wide == 2 * narrow


def write(folder, width):
    model = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 2))
    graph = fold_constants(trace_model(model, SPEC)).SerializeToString()
    shape = {"task": "tabular", "shape": [6], "dtype": "float32", "layout": "F"}
    write_artefact(folder, {MODEL_FILE: graph}, {"input": shape, "classes": ["no", "yes"]})
    return folder


def test_a_larger_model_takes_more_memory_by_its_weights_at_least(tmp_path):
    small, large = (measure_peak_memory(write(tmp_path / str(width), width)) for width in (4, 500_000))
    if small is None or large is None:
        pytest.skip("this system does not tell a process's peak")
    assert 0 < small < 20e6
    assert large - small > 4 * 500_000 * 9


def test_what_cannot_be_run_is_said_in_one_line(tmp_path):
    with pytest.raises(FedStillError, match=r"in a process of its own: .*expected an artefact folder"):
        measure_peak_memory(tmp_path)
