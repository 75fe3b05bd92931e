"""Graphs whose weights take 4 bits or 1 bit.

4 bits: INT4 initialisers and DequantizeLinear, standard operators of opset 21, for every
layer with weights. ONNX Runtime brings them to floats when it opens the graph (with
`session.disable_quant_qdq`, or it would do so in every run, eight times slower), so they
compute as floats do: storage shrinks, nothing else.

1 bit: inner layers become ± one number per row. Static int8 stores these as two integers,
which `fedstill.common.packing` stores in one bit each; they compute as int8 does.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fedstill.common.compressors.quantisers import binarise_rows, quantise_groups

OPSET = 21
SESSION_OPTIONS = {"session.disable_quant_qdq": "1"}
_LEAST_VALUES = 256


def store_int4(graph: onnx.ModelProto, *, group_size: int) -> onnx.ModelProto:
    """Stores every layer's weights in 4 bits, in groups along what each output sums over.

    Args:
        graph: A float graph, its constants folded.
        group_size: Weights that share a scale.

    Returns:
        A new graph; open it with `SESSION_OPTIONS`.
    """
    result = onnx.ModelProto()
    result.CopyFrom(graph)
    tensors = {tensor.name: tensor for tensor in result.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for name, by_columns in _stored_weights(result):
        tensor = tensors[name]
        values = numpy_helper.to_array(tensor)
        rows = values.T if by_columns else values.reshape(len(values), -1)
        codes, scales = quantise_groups(np.ascontiguousarray(rows), group_size=group_size)
        result.graph.initializer.remove(tensor)
        result.graph.initializer.extend(
            [
                _int4_tensor(f"{name}_int4", codes),
                numpy_helper.from_array(scales, f"{name}_scale"),
                numpy_helper.from_array(
                    np.array(values.T.shape if by_columns else values.shape), f"{name}_shape"
                ),
            ]
        )
        wide = f"{name}_rows" if by_columns else name
        nodes += [
            helper.make_node(
                "DequantizeLinear",
                [f"{name}_int4", f"{name}_scale"],
                [f"{name}_half"],
                axis=1,
                block_size=group_size,
            ),
            helper.make_node("Cast", [f"{name}_half"], [f"{name}_float"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", [f"{name}_float", f"{name}_shape"], [wide]),
        ]
        if by_columns:
            nodes.append(helper.make_node("Transpose", [wide], [name], perm=[1, 0]))
    nodes += result.graph.node
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    for opset in result.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = max(opset.version, OPSET)
    result.ir_version = max(result.ir_version, 10)
    return result


def binarise_graph(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Replaces the weights of inner layers by ± the mean magnitude of each output's row.

    Args:
        graph: A float graph, its constants folded.

    Returns:
        A new float graph; the first and the last layer and depthwise ones are as before.
    """
    result = onnx.ModelProto()
    result.CopyFrom(graph)
    tensors = {tensor.name: tensor for tensor in result.graph.initializer}
    layers = list(_layers(result))
    for node, name, by_columns in layers[1:-1]:
        if any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute):
            continue
        values = numpy_helper.to_array(tensors[name])
        rows = values.T if by_columns else values.reshape(len(values), -1)
        binary = binarise_rows(np.ascontiguousarray(rows))
        binary = binary.T if by_columns else binary.reshape(values.shape)
        tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(binary), name))
    return result


def _layers(graph: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, str, bool]]:
    """Yields nodes with weights, the weights' name, and whether outputs are their columns."""
    tensors = {tensor.name for tensor in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in tensors:
            transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            yield node, node.input[1], node.op_type == "MatMul" or (node.op_type == "Gemm" and not transposed)


def _stored_weights(graph: onnx.ModelProto) -> list[tuple[str, bool]]:
    """Lists weights worth storing in 4 bits: of layers, tables of embeddings and recurrent layers."""
    sizes = {
        tensor.name: tuple(tensor.dims)
        for tensor in graph.graph.initializer
        if tensor.data_type == TensorProto.FLOAT
    }
    found = {name: by_columns for _, name, by_columns in _layers(graph) if name in sizes}
    for node in graph.graph.node:
        if node.op_type == "Gather":
            found.setdefault(node.input[0], False)
        elif node.op_type in ("GRU", "LSTM"):
            found.update(dict.fromkeys(node.input[1:3], False))
    return [
        (name, by_columns)
        for name, by_columns in found.items()
        if len(sizes.get(name, ())) >= 2
        and np.prod(sizes[name]) >= _LEAST_VALUES
        and not (by_columns and len(sizes[name]) != 2)
    ]


def _int4_tensor(name: str, codes: np.ndarray) -> onnx.TensorProto:
    flat = codes.reshape(-1)
    nibbles = np.pad(flat, (0, len(flat) % 2)).astype(np.uint8) & 0xF
    packed = nibbles[::2] | (nibbles[1::2] << 4)
    return helper.make_tensor(name, TensorProto.INT4, codes.shape, packed.tobytes(), raw=True)
