"""Static 8-bit quantisation of an ONNX graph.

Weights are int8 per output channel, activations uint8 per tensor: with signed
activations ONNX Runtime does not fuse residual blocks and loses most of the speed.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from common.errors import FedStillError

QUANTISED_OPERATORS = ["Conv", "Gemm", "MatMul", "MaxPool", "Relu", "Add", "AveragePool", "GlobalAveragePool"]


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, input_name: str, samples_S: np.ndarray, batch_size: int) -> None:
        self._batches: Iterator[np.ndarray] = (
            np.ascontiguousarray(samples_S[start : start + batch_size])
            for start in range(0, len(samples_S), batch_size)
        )
        self._input_name = input_name

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {self._input_name: batch}


def quantise_static(model: onnx.ModelProto, calibration_S: np.ndarray) -> onnx.ModelProto:
    """Quantises weights and activations to 8 bits.

    Args:
        model: A float graph with one input of raw samples, constants folded.
        calibration_S: Raw samples (S, *sample_shape) whose activations set the ranges.

    Returns:
        The quantised graph in QDQ form; the first layers, which normalise raw
        samples, stay in floats.

    Raises:
        FedStillError: There is nothing to calibrate with.
    """
    if len(calibration_S) == 0:
        raise FedStillError("static quantisation needs samples to calibrate with, got none")
    with tempfile.TemporaryDirectory(prefix="fedstill-int8-") as folder, _quiet():
        # By path: given a model in memory, ONNX Runtime moves its weights out of it.
        original, quantised = Path(folder) / "original.onnx", Path(folder) / "quantised.onnx"
        onnx.save(model, original)
        quantize_static(
            original,
            quantised,
            _Calibration(model.graph.input[0].name, calibration_S, batch_size=64),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTISED_OPERATORS,
            nodes_to_exclude=_preprocessing_nodes(model),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
        return onnx.load(quantised)


def fold_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Folds constants and drops what any runtime would drop before it runs a graph."""
    with tempfile.TemporaryDirectory(prefix="fedstill-fold-") as folder:
        path = Path(folder) / "folded.onnx"
        options = SessionOptions()
        options.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 3
        InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(path)


def _preprocessing_nodes(model: onnx.ModelProto) -> list[str]:
    """Names what comes before the first layer with weights."""
    names = []
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            break
        names.append(node.name)
    return names


@contextmanager
def _quiet() -> Iterator[None]:
    # ONNX Runtime recommends preprocessing on the root logger; it is done above.
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(previous)
