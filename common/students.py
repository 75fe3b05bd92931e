"""From a plan to a student, and from a trained student to an artefact."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from fedstill.common.compressors import CompressionPlan
from fedstill.common.compressors.exporting import ExportedModel, ExportJob, export_model, serialise_graph
from fedstill.common.compressors.quantisers import quantised_weights
from fedstill.common.compressors.static_int8 import fold_constants
from fedstill.common.compressors.structure import reshape_model, shapes_of
from fedstill.common.installation import describe_versions
from fedstill.common.models import MODELS, InputSpec, build_model
from fedstill.common.onnx_export import recall_trace, swap_weights, trace_model
from fedstill.common.training import count_bytes, count_parameters, deterministic


@dataclass(frozen=True)
class StudentDesign:
    """Everything that fixes a student's architecture and its artefact's form."""

    model: str
    width: float
    compression: CompressionPlan
    spec: InputSpec
    class_names: tuple[str, ...]
    feature_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExportedStudent:
    """A student before compression, as a graph, and as the device runs it."""

    fp32_model: bytes
    model: ExportedModel


def build_student(design: StudentDesign, *, seed: int) -> nn.Module:
    """Builds a student with the initial weights of a seed."""
    with deterministic(seed, num_threads=1):
        return build_model(design.model, design.spec, num_classes=len(design.class_names), width=design.width)


@functools.lru_cache(maxsize=8)
def _trace(
    name: str,
    width: float,
    spec: InputSpec,
    num_classes: int,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    graphs_dir: Path | None,
    code: str,
) -> onnx.ModelProto:
    def trace() -> onnx.ModelProto:
        model = build_model(name, spec, num_classes=num_classes, width=width)
        reshape_model(model, dict(shapes), origin="the student")
        return trace_model(model, spec)

    identity = repr((name, width, spec, num_classes, shapes))
    return recall_trace(graphs_dir, f"{identity} {code}" if code else identity, trace)


def export_student(
    student: nn.Module,
    design: StudentDesign,
    *,
    calibration_S: np.ndarray,
    graphs_dir: Path | None = None,
) -> ExportedStudent:
    """Exports a student and compresses it as designed.

    Args:
        student: The trained student.
        design: Its design.
        calibration_S: Raw samples that set the ranges of static quantisation.
        graphs_dir: Keeps what tracing finds for the processes to come; None: nothing is kept.

    Returns:
        Its graph and its files; the same weights and samples give the same bytes.
    """
    with torch.random.fork_rng(devices=[]):  # tracing builds a model and draws its weights
        shapes = tuple(shapes_of(student).items())
        num_classes = len(design.class_names)
        code = MODELS.digest_code(design.model)
        traced = _trace(design.model, design.width, design.spec, num_classes, shapes, graphs_dir, code)
    with quantised_weights(student, design.compression):  # what training for few bits has computed with
        fp32 = fold_constants(swap_weights(traced, student))
    fp32_model = serialise_graph(fp32)
    job = ExportJob(student, fp32, design.spec, design.compression, calibration_S)
    return ExportedStudent(fp32_model, export_model(job))


def describe_student(
    student: nn.Module,
    design: StudentDesign,
    exported: ExportedStudent,
    *,
    num_calibration: int,
    costs: list[dict[str, Any]],
    origin: dict[str, Any],
) -> dict[str, Any]:
    """Writes the part of an artefact's manifest that is known before it is evaluated.

    Args:
        student: The trained student.
        design: Its design.
        exported: Its files.
        num_calibration: Samples that set the ranges.
        costs: What each step of compression cost.
        origin: Node, round and digest of the student, by which its run is found: a run's name and
            what was measured stay out, so that equal runs give equal bytes.

    Returns:
        The manifest without accuracies and file digests.
    """
    model = exported.model
    return {
        "runtime": model.runtime,
        **({"session_options": model.session_options} if model.session_options else {}),
        "input": {
            "task": design.spec.task,
            "shape": list(design.spec.sample_shape),
            "dtype": design.spec.dtype,
            "layout": design.spec.layout,
            **({"features": list(design.feature_names)} if design.feature_names else {}),
        },
        "classes": list(design.class_names),
        "family": design.model,
        "width": design.width,
        "num_parameters": count_parameters(student),
        "fp32_bytes": count_bytes(student),
        "compression": {
            "method": model.method,
            "speeds_up": model.speeds_up,
            "bits": design.compression.bits,
            "num_calibration": num_calibration,
            "steps": costs,
            "plan": design.compression.to_json(),
        },
        "versions": describe_versions("onnxruntime", "torch"),
        "origin": origin,
    }
