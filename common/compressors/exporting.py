"""From a trained model to the files that a device runs: a registry of exporters.

One exporter per `compress.runtime`. To add one, write a function from an `ExportJob` to
an `ExportedModel` and enter it in `EXPORTERS`; what runs its files is entered in
`common.runtimes`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from torch import nn

from common.compressors.plan import CompressionPlan
from common.compressors.pte import lower_to_pte
from common.compressors.static_int8 import quantise_static
from common.errors import unknown_name
from common.models import InputSpec
from common.onnx_export import strip_metadata
from common.runtimes.executorch_program import MODEL_FILE as PTE_FILE
from common.runtimes.onnx_graph import MODEL_FILE


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
    """Its name in `common.runtimes`."""
    session_options: dict[str, str] = field(default_factory=dict)


Exporter = Callable[[ExportJob], ExportedModel]


def export_onnx(job: ExportJob) -> ExportedModel:
    """Writes an ONNX graph: floats, or static int8."""
    methods = describe_shapes(job.plan)
    speeds_up = bool(methods)
    graph = job.graph
    if job.plan.bits == 8:
        graph, speeds_up = quantise_static(graph, job.calibration_S), True
        methods.append("static int8 per channel, uint8 activations")
        kinds = {node.op_type for node in job.graph.graph.node}
        if kinds & {"GRU", "LSTM"} or job.spec.num_ids:
            methods.append("embeddings and recurrent weights are stored in int8, computed in floats")
    return ExportedModel({MODEL_FILE: serialise_graph(graph)}, "; ".join(methods) or "none", speeds_up)


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


EXPORTERS: dict[str, Exporter] = {"executorch": export_executorch, "onnx": export_onnx}


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
    if job.plan.runtime not in EXPORTERS:
        raise unknown_name("compress.runtime", job.plan.runtime, EXPORTERS)
    return EXPORTERS[job.plan.runtime](job)


def serialise_graph(graph: onnx.ModelProto) -> bytes:
    """Serialises a graph without what a device does not run; equal graphs give equal bytes."""
    strip_metadata(graph)
    return bytes(graph.SerializeToString(deterministic=True))
