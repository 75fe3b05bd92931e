"""Exports models to ONNX: traced once per architecture, weights swapped per model.

Tracing takes about a second, and three in a process that has not traced before; swapping weights
takes milliseconds. A fleet of one architecture therefore traces once per process, and a device,
where Flower starts a process for each task, once and for all: it keeps the graph in a file.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import logging
import traceback
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from fedstill.common.errors import FedStillError
from fedstill.common.files import write_bytes_atomically
from fedstill.common.models import InputSpec

INPUT_NAME = "samples"
OUTPUT_NAME = "logits"
OPSET = 20
_UNUSED = "unused"
MAX_KEPT = 64
"""Graphs in a folder; pruned students bring new ones again and again."""


def trace_model(model: nn.Module, spec: InputSpec) -> onnx.ModelProto:
    """Exports a model with its weights as initialisers named like its state.

    Args:
        model: A model from raw samples to logits.
        spec: The samples that it takes.

    Returns:
        The graph: input "samples" (batch, *sample_shape) of the raw type, output
        "logits" (batch, C) float32. No metadata, no paths of this machine.

    Raises:
        FedStillError: The model cannot be traced; the cause is named.
    """
    model.eval()
    proto = _export(model, spec)
    if _has_twins(proto):
        proto = _without_prefix(_export(_Holder(model), spec))
    strip_metadata(proto)
    _note_unused(proto, model)
    return proto


def _note_unused(proto: onnx.ModelProto, model: nn.Module) -> None:
    """Keeps a place for weights that are used under another name, or never, until weights are swapped."""
    known = {tensor.name for tensor in proto.graph.initializer}
    for name, value in model.state_dict().items():
        if name not in known and not name.endswith("num_batches_tracked"):
            tensor = numpy_helper.from_array(value.detach().cpu().numpy(), name)
            tensor.doc_string = _UNUSED
            proto.graph.initializer.append(tensor)


def _export(model: nn.Module, spec: InputSpec) -> onnx.ModelProto:
    example = torch.zeros((2, *spec.sample_shape), dtype=getattr(torch, spec.dtype))
    batch = torch.export.Dim("batch", min=1, max=1 << 20)
    with _quiet():
        try:
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                external_data=False,
                optimize=False,
                opset_version=OPSET,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes=({0: batch},),
                verbose=False,
            )
        except Exception as error:  # noqa: BLE001 - a stranger's model may raise anything
            raise FedStillError(f"cannot export this model to ONNX: {_explain(error)}") from None
    assert program is not None  # dynamo=True always returns a program
    proto: onnx.ModelProto = program.model_proto
    return proto


def _explain(error: Exception) -> str:
    """Says in one line what the exporter failed at: the operator and its layer where it knows them."""
    chain: list[BaseException] = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    cause = next((line for line in str(chain[-1]).splitlines() if line.strip()), type(chain[-1]).__name__)
    for link in chain:
        for frame, _ in traceback.walk_tb(link.__traceback__):
            node = frame.f_locals.get("node")
            if isinstance(node, torch.fx.Node) and node.op == "call_function":
                layers = list((node.meta.get("nn_module_stack") or {}).values())
                name, kind = layers[-1] if layers else ("", "")
                kind = kind if isinstance(kind, str) else kind.__qualname__
                layer = f"layer {name} ({kind.rpartition('.')[2]})" if name else "the model"
                return f"{layer} computes {node.target}, which ONNX has no form of"
    return cause.strip()


class _Holder(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.held = model

    def forward(self, x: torch.Tensor) -> Any:
        return self.held(x)


def _has_twins(proto: onnx.ModelProto) -> bool:
    # A buffer `mean` of the outermost module and the result of x.mean() get one name.
    computed = {name for node in proto.graph.node for name in node.output}
    return any(tensor.name in computed for tensor in proto.graph.initializer)


def _without_prefix(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Names initialisers as the held model's state does, and what is computed otherwise."""
    graph, prefix = proto.graph, "held."
    state = {tensor.name: tensor.name.removeprefix(prefix) for tensor in graph.initializer}
    names = {
        name: f"{name}_computed" for node in graph.node for name in node.output if name in state.values()
    } | state
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    del graph.value_info[:]
    return proto


def recall_trace(folder: Path | None, key: str, trace: Callable[[], onnx.ModelProto]) -> onnx.ModelProto:
    """Reads a traced graph from a file, or traces it and keeps it for the processes to come.

    Args:
        folder: Where graphs are kept, `<sha256>.onnx` each; None keeps none.
        key: Everything that fixes the architecture; the code of models and the tracer's version are added.
        trace: Makes the graph.

    Returns:
        The graph, its weights anybody's.
    """
    if folder is None:
        return trace()
    path = folder / f"{hashlib.sha256(f'{_read_versions()} {key}'.encode()).hexdigest()}.onnx"
    with contextlib.suppress(OSError):
        content = path.read_bytes()
        if hashlib.sha256(content[32:]).digest() == content[:32]:
            return onnx.load_from_string(content[32:])
    graph = trace()
    content = graph.SerializeToString(deterministic=True)
    with contextlib.suppress(OSError):  # a full disk costs the next process its time and nothing else
        write_bytes_atomically(path, hashlib.sha256(content).digest() + content)
        for old in sorted(folder.glob("*.onnx"), key=lambda kept: -kept.stat().st_mtime)[MAX_KEPT:]:
            old.unlink(missing_ok=True)
    return graph


@functools.cache
def _read_versions() -> str:
    # The code counts, not only its version: whoever changes a model gets another graph.
    here = Path(__file__).parent
    code = hashlib.sha256()
    for path in sorted(
        [Path(__file__), *(here / "models").glob("*.py"), *(here / "compressors").glob("*.py")]
    ):
        code.update(path.read_bytes())
    return f"{metadata.version('torch')} {metadata.version('onnx')} {code.hexdigest()}"


def swap_weights(traced: onnx.ModelProto, model: nn.Module) -> onnx.ModelProto:
    """Puts another model's weights into a traced graph of the same architecture.

    Args:
        traced: What `trace_model` returned.
        model: A model of exactly that architecture.

    Returns:
        A copy of the graph with every initialiser that the model's state names replaced.

    Raises:
        FedStillError: The state has a tensor that the graph lacks or shapes differently.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(traced)
    initialisers = {tensor.name: tensor for tensor in proto.graph.initializer}
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):  # batch normalisation counts steps, and only in training
            continue
        tensor = initialisers.get(name)
        if tensor is None or tuple(tensor.dims) != tuple(value.shape):
            found = "nothing" if tensor is None else str(tuple(tensor.dims))
            raise FedStillError(f"expected {name} {tuple(value.shape)} in the traced graph, found {found}")
        unused = tensor.doc_string == _UNUSED
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value.detach().cpu().numpy()), name))
        if unused:
            proto.graph.initializer.remove(tensor)
    return proto


def strip_metadata(proto: onnx.ModelProto) -> None:
    """Removes what a device does not run: metadata, doc strings, names of the tracer's scopes."""
    del proto.metadata_props[:]
    proto.ClearField("doc_string")
    proto.producer_name = "fedstill"
    proto.ClearField("producer_version")
    graph = proto.graph
    del graph.metadata_props[:]
    del graph.value_info[:]
    graph.ClearField("doc_string")
    graph.name = "model"
    for item in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        del item.metadata_props[:]
        item.ClearField("doc_string")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # The exporter prints progress and warns of its own deprecations.
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
