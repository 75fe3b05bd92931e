"""From a trained model to the files that a device runs: a registry of exporters.

One exporter per `compress.runtime`. To add one, write a function from an `ExportJob` to
an `ExportedModel` and enter it in `EXPORTERS` (`exporters.py`); what runs its files is entered in
`fedstill.common.runtimes`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import numpy_helper
from torch import nn

from fedstill.common.compressors.exporters import EXPORTERS
from fedstill.common.compressors.few_bits import SESSION_OPTIONS, binarise_graph, store_int4
from fedstill.common.compressors.plan import CompressionPlan
from fedstill.common.compressors.pte import lower_to_pte
from fedstill.common.compressors.static_int8 import quantise_static
from fedstill.common.models import InputSpec
from fedstill.common.modules import call_foreign
from fedstill.common.onnx_export import strip_metadata
from fedstill.common.packing import Region, pack_bytes
from fedstill.common.registry import require_kind
from fedstill.common.runtimes.executorch_program import MODEL_FILE as PTE_FILE
from fedstill.common.runtimes.onnx_graph import MODEL_FILE
from fedstill.common.runtimes.packed import PACKED_FILE


@dataclass(frozen=True)
class ExportJob:
    """What an exporter works with."""

    model: nn.Module
    """The trained model, from raw samples to logits."""
    graph: onnx.ModelProto
    """The same in floats, its constants folded."""
    spec: InputSpec
    plan: CompressionPlan
    calibration_S: np.ndarray
    """Raw samples that set the ranges of activations."""


@dataclass(frozen=True)
class ExportedModel:
    """The files of an artefact's model, and what its manifest says of them."""

    files: dict[str, bytes]
    method: str
    speeds_up: bool
    """Whether the form computes faster than floats; False is smaller storage only."""
    runtime: str = "onnxruntime"
    """Its name in `fedstill.common.runtimes`."""
    session_options: dict[str, str] = field(default_factory=dict)


Exporter = Callable[[ExportJob], ExportedModel]


def export_onnx(job: ExportJob) -> ExportedModel:
    """Writes an ONNX graph of floats, static int8, 4-bit or 1-bit weights, plain or packed."""
    plan, graph, options = job.plan, job.graph, {}
    methods = describe_shapes(plan)
    speeds_up = bool(methods)
    if "sparsify" in plan.steps:
        amount = f"{plan.sparsity:.0%}" if plan.pattern == "unstructured" else f"{plan.pattern}"
        methods.append(f"sparse weights, {amount}")
    trained = ", trained with them" if plan.qat else ""
    if plan.bits == 4:
        graph, options = store_int4(graph, group_size=plan.group_size), SESSION_OPTIONS
        methods.append(f"4-bit weights in groups of {plan.group_size}{trained}, computed in floats")
    elif plan.bits in (8, 1):
        if plan.bits == 1:
            graph = binarise_graph(graph)
            methods.append(f"1-bit weights of inner layers{trained}, computed as int8")
        graph, speeds_up = quantise_static(graph, job.calibration_S), True
        methods.append("static int8 per channel, uint8 activations")
        kinds = {node.op_type for node in job.graph.graph.node}
        if kinds & {"GRU", "LSTM"} or job.spec.num_ids:
            methods.append("embeddings and recurrent weights are stored in int8, computed in floats")
    runtime, files = "onnxruntime", {MODEL_FILE: serialise_graph(graph)}
    if plan.storage == "packed":
        runtime, files = "packed", {PACKED_FILE: pack_graph(graph)}
        methods.append("packed")
    return ExportedModel(files, "; ".join(methods) or "none", speeds_up, runtime, dict(options))


def pack_graph(graph: onnx.ModelProto) -> bytes:
    """Packs a graph so that its bytes come back exactly; see `fedstill.common.packing`."""
    for tensor in graph.graph.initializer:
        if not tensor.raw_data and tensor.data_type != onnx.TensorProto.STRING:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    content = serialise_graph(graph)
    regions, position = [], 0
    for tensor in graph.graph.initializer:
        start = content.find(tensor.raw_data, position)
        if start < 0 or not tensor.raw_data:
            continue
        items = max(1, int(np.prod(tensor.dims)))
        size = len(tensor.raw_data) // items if len(tensor.raw_data) % items == 0 else 1
        regions.append(Region(start, len(tensor.raw_data), size if size in (1, 2, 4, 8) else 1))
        position = start + len(tensor.raw_data)
    return pack_bytes(content, regions)


def describe_shapes(plan: CompressionPlan) -> list[str]:
    """Says in words what a plan takes out of a model's layers, and thereby out of its computation."""
    said = []
    if "prune" in plan.steps:
        said.append(f"{plan.prune_ratio:.0%} of the channels pruned by {plan.importance.replace('_', ' ')}")
    if "lowrank" in plan.steps:
        most = f", rank {plan.rank} at most" if plan.rank else ""
        said.append(f"low rank that keeps {plan.energy:.0%} of the energy{most}")
    return said


def export_executorch(job: ExportJob) -> ExportedModel:
    """Writes an ExecuTorch program: floats, or static int8."""
    calibration_S = job.calibration_S if job.plan.bits == 8 else None
    program = lower_to_pte(job.model, job.spec, calibration_S=calibration_S)
    method = "XNNPACK" if calibration_S is None else "PT2E static int8 per channel, XNNPACK"
    methods = [*describe_shapes(job.plan), method]
    speeds_up = len(methods) > 1 or calibration_S is not None
    return ExportedModel({PTE_FILE: program}, "; ".join(methods), speeds_up, runtime="executorch")


def export_model(job: ExportJob) -> ExportedModel:
    """Writes the files of a model as its plan says.

    Args:
        job: The model and its plan.

    Returns:
        The files; the same weights and samples give the same bytes.

    Raises:
        ConfigError: Nothing exports for the plan's runtime.
        FedStillError: The model cannot be exported; the cause is named.
    """
    exporter = EXPORTERS[job.plan.runtime]
    if job.plan.runtime in EXPORTERS:
        return exporter(job)  # type: ignore[no-any-return]
    exported = call_foreign(exporter, job, name=job.plan.runtime, key=EXPORTERS.key)
    found: ExportedModel = require_kind(exported, job.plan.runtime, ExportedModel, key=EXPORTERS.key)
    return found


def serialise_graph(graph: onnx.ModelProto) -> bytes:
    """Serialises a graph without what a device does not run; equal graphs give equal bytes."""
    strip_metadata(graph)
    return bytes(graph.SerializeToString(deterministic=True))
