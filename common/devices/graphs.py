"""The fixed graphs of the device suite, written as ONNX without the onnx package.

A device's base install has ONNX Runtime and no `onnx`, so the few messages that a graph
takes are encoded here, by protobuf's wire format: a field is its key (number and wire
type), then a varint or a length and bytes.

    samples (batch, 1, 28, 28) → convolution 32 → 64 (stride 2) → 64 (stride 2) → 10 logits

Weights are constant: what they are does not change how long they take.

Reference: https://onnx.ai/onnx/repo-docs/IR.html; field numbers are those of onnx.proto.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

SAMPLE_SHAPE = (1, 28, 28)
_CHANNELS = (1, 32, 64, 64)
_SIDES = (28, 14, 7)  # of each convolution's output
_NUM_CLASSES = 10
NUM_MACS = (
    sum(
        side * side * 9 * inputs * outputs
        for side, inputs, outputs in zip(_SIDES, _CHANNELS[:-1], _CHANNELS[1:], strict=True)
    )
    + _SIDES[-1] ** 2 * _CHANNELS[-1] * _NUM_CLASSES
)
"""Multiply-adds of one sample."""
_IR_VERSION, _OPSET = 9, 17
_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6}


def _varint(value: int) -> bytes:
    parts = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        parts.append(low | (0x80 if value else 0))
        if not value:
            return bytes(parts)


def _int(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _bytes(number: int, content: bytes | str) -> bytes:
    data = content.encode() if isinstance(content, str) else content
    return _varint(number << 3 | 2) + _varint(len(data)) + data


@dataclass
class _Graph:
    """Nodes and initialisers, encoded, in the order that they were added."""

    nodes: bytes = b""
    tensors: bytes = b""

    def constant(self, name: str, values: np.ndarray) -> str:
        dims = b"".join(_int(1, size) for size in values.shape)
        body = dims + _int(2, _TYPES[values.dtype.name]) + _bytes(8, name) + _bytes(9, values.tobytes())
        self.tensors += _bytes(5, body)
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: int | list[int]) -> str:
        body = b"".join(_bytes(1, name) for name in inputs) + _bytes(2, output) + _bytes(4, kind)
        for name, value in attributes.items():
            if isinstance(value, int):
                content = _int(3, value) + _int(20, 2)
            else:
                content = b"".join(_int(8, item) for item in value) + _int(20, 7)
            body += _bytes(5, _bytes(1, name) + content)
        self.nodes += _bytes(1, body)
        return output

    def serialise(self, output: str) -> bytes:
        def value_info(name: str, shape: tuple[int, ...]) -> bytes:
            dims = [_bytes(1, _bytes(2, "batch")), *(_bytes(1, _int(1, size)) for size in shape)]
            tensor = _int(1, _TYPES["float32"]) + _bytes(2, b"".join(dims))
            return _bytes(1, name) + _bytes(2, _bytes(1, tensor))

        graph = self.nodes + _bytes(2, "suite") + self.tensors
        graph += _bytes(11, value_info("samples", SAMPLE_SHAPE)) + _bytes(
            12, value_info(output, (_NUM_CLASSES,))
        )
        return _int(1, _IR_VERSION) + _bytes(8, _bytes(1, "") + _int(2, _OPSET)) + _bytes(7, graph)


def build_graph(*, bits: int) -> bytes:
    """Builds the suite's graph.

    Args:
        bits: 32 for floats; 8 for 8-bit weights and activations, in the form that
            ONNX Runtime makes integer kernels of.

    Returns:
        A serialised ONNX model of `NUM_MACS` multiply-adds per sample.
    """
    graph = _Graph()
    if bits == 8:
        graph.constant("scale", np.array(0.02, np.float32))
        graph.constant("zero", np.array(0, np.uint8))  # below 0 there is nothing: Relu melts into its layer
        graph.constant("weight_scale", np.array(0.001, np.float32))
        graph.constant("weight_zero", np.array(0, np.int8))
        graph.constant("bias_scale", np.array(0.02 * 0.001, np.float32))
        graph.constant("bias_zero", np.array(0, np.int32))

    def rounded(name: str) -> str:
        if bits != 8:
            return name
        grid = ["scale", "zero"]
        quantised = graph.node("QuantizeLinear", [name, *grid], f"{name}_q")
        return graph.node("DequantizeLinear", [quantised, *grid], f"{name}_d")

    def weight(name: str, shape: tuple[int, ...]) -> str:
        if bits != 8:
            return graph.constant(name, np.full(shape, 0.001, np.float32))
        stored = graph.constant(f"{name}_q", np.ones(shape, np.int8))
        return graph.node("DequantizeLinear", [stored, "weight_scale", "weight_zero"], name)

    def bias(name: str, size: int) -> str:
        if bits != 8:
            return graph.constant(name, np.zeros(size, np.float32))
        stored = graph.constant(f"{name}_q", np.zeros(size, np.int32))
        return graph.node("DequantizeLinear", [stored, "bias_scale", "bias_zero"], name)

    value = rounded("samples")
    for index, (inputs, outputs) in enumerate(pairwise(_CHANNELS)):
        stride = 1 if index == 0 else 2
        taken = [value, weight(f"w{index}", (outputs, inputs, 3, 3)), bias(f"b{index}", outputs)]
        value = graph.node("Conv", taken, f"conv{index}", pads=[1, 1, 1, 1], strides=[stride, stride])
        value = rounded(graph.node("Relu", [value], f"relu{index}"))
    value = rounded(graph.node("Flatten", [value], "flat", axis=1))
    num_features = _SIDES[-1] ** 2 * _CHANNELS[-1]
    last = [value, weight("w_out", (num_features, _NUM_CLASSES)), bias("b_out", _NUM_CLASSES)]
    return graph.serialise(rounded(graph.node("Gemm", last, "logits")))
