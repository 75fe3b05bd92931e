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
from onnx import numpy_helper
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from fedstill.common.errors import FedStillError

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
        samples, stay in floats. Embeddings and the weights of recurrent layers are
        stored in 8 bits but computed with in floats: that makes them smaller, not faster.

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
            # 7 of the 8 bits: x86 without VNNI adds two products in 16 bits, which full weights overflow.
            reduce_range=True,
        )
        return _store_tables_as_int8(onnx.load(quantised))


def _store_tables_as_int8(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Gather" and _is_table(tensors.get(node.input[0]), least_values=256):
            # One range per column of the table: rows are fetched in 8 bits, then brought to floats.
            _replace_by_int8(graph, tensors.pop(node.input[0]), axis=1)
            narrow, wide = f"{node.output[0]}_int8", node.output[0]
            node.input[0], node.output[0] = f"{node.input[0]}_int8", narrow
            nodes += [node, _dequantise(narrow, wide, name=node.input[0].removesuffix("_int8"), axis=-1)]
            continue
        if node.op_type in ("GRU", "LSTM"):
            for place in (1, 2):
                name = node.input[place]
                if name in tensors:
                    _replace_by_int8(graph, tensors.pop(name), axis=1)
                    nodes.append(_dequantise(f"{name}_int8", name, name=name, axis=1))
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def _is_table(tensor: onnx.TensorProto | None, *, least_values: int) -> bool:
    return (
        tensor is not None
        and tensor.data_type == onnx.TensorProto.FLOAT
        and len(tensor.dims) == 2
        and int(np.prod(tensor.dims)) >= least_values
    )


def _replace_by_int8(graph: onnx.GraphProto, tensor: onnx.TensorProto, *, axis: int) -> None:
    values = numpy_helper.to_array(tensor)
    others = tuple(index for index in range(values.ndim) if index != axis)
    largest = np.abs(values).max(axis=others)
    scale = np.where(largest > 0, largest / 127, 1.0).astype(np.float32)
    shaped = scale.reshape([-1 if index == axis else 1 for index in range(values.ndim)])
    narrow = np.clip(np.rint(values / shaped), -127, 127).astype(np.int8)
    graph.initializer.remove(tensor)
    graph.initializer.extend(
        [
            numpy_helper.from_array(narrow, f"{tensor.name}_int8"),
            numpy_helper.from_array(scale, f"{tensor.name}_scale"),
            numpy_helper.from_array(np.zeros(scale.shape, np.int8), f"{tensor.name}_zero"),
        ]
    )


def _dequantise(narrow: str, wide: str, *, name: str, axis: int) -> onnx.NodeProto:
    inputs = [narrow, f"{name}_scale", f"{name}_zero"]
    return onnx.helper.make_node("DequantizeLinear", inputs, [wide], name=f"{wide}_wide", axis=axis)


def fold_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Folds constants and drops what any runtime would drop before it runs a graph."""
    with tempfile.TemporaryDirectory(prefix="fedstill-fold-") as folder:
        path = Path(folder) / "folded.onnx"
        options = SessionOptions()
        options.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 3
        InferenceSession(
            _with_known_shapes(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return onnx.load(path)


def _with_known_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    # ONNX Runtime asks for a tensor's shape in every run if its batch is open, even where only
    # the fixed axes are asked for; what hangs on it, as a recurrent layer's weights, stays unfolded.
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    shapes = {
        value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in inferred.graph.value_info
    }
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    graph = fixed.graph
    for node in [node for node in graph.node if node.op_type == "Shape"]:
        bounds = {attribute.name: attribute.i for attribute in node.attribute}
        axes = shapes.get(node.input[0], [])[bounds.get("start", 0) : bounds.get("end")]
        if axes and all(axes):
            graph.node.remove(node)
            graph.initializer.append(numpy_helper.from_array(np.array(axes, np.int64), node.output[0]))
    return fixed


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
