"""The model that is compressed: a checkpoint, an ONNX file, or what a user's function builds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from fedstill.common.compressors.static_int8 import fold_constants
from fedstill.common.compressors.structure import load_compressed
from fedstill.common.errors import CheckpointError, DataError, FedStillError, UsageError
from fedstill.common.inference import Predictor, open_graph
from fedstill.common.models import InputSpec, build_model, resolve_model
from fedstill.common.models.foreign import build_own_teacher, takes_text, unwrap_logits
from fedstill.common.onnx_export import trace_model
from fedstill.common.seeding import stream_seed
from fedstill.common.tracing import find_untraceable_layer
from fedstill.common.training import deterministic, digest_weights
from fedstill.server.compress.records import Material


@dataclass(frozen=True, eq=False)
class Given:
    """What was given, ready to teach its compressed forms."""

    name: str
    graph: onnx.ModelProto
    """In floats, its constants folded."""
    predict: Predictor
    digest: str
    model: nn.Module | None
    """What plans train: the given model, or the fresh student that an ONNX file teaches; None: nothing."""
    is_graph: bool = False
    """An ONNX file was given."""


def load_given(text: str, *, model_name: str, width: float, material: Material, seed: int) -> Given:
    """Loads the model.

    Args:
        text: A .safetensors or .onnx file, or module:function as `teacher.factory` takes it.
        model_name: Family of a checkpoint, or of the student that an ONNX file teaches.
        width: Its width, as `student.width`; one that was pruned or factorised has the width of its design.
        material: The data that it is for.
        seed: Seeds the weights of a function that gives none.

    Returns:
        The model.

    Raises:
        UsageError: No such file or function, weights or a graph that do not fit the data,
            or a layer that cannot be traced, which is named.
    """
    path = Path(text)
    if path.suffix == ".onnx":
        student = None
        if model_name != "auto":
            name = resolve_model(model_name, role="student", spec=material.spec)
            with deterministic(stream_seed(seed, "compress-weights"), num_threads=1):
                student = build_model(
                    name, material.spec, num_classes=material.dataset.num_classes, width=width
                )
        return _read_graph(path, material, student)
    spec, num_classes = material.spec, material.dataset.num_classes
    with deterministic(seed, num_threads=1):
        if path.suffix == ".safetensors":
            name = resolve_model(model_name, role="teacher", spec=spec)
            model = build_model(name, spec, num_classes=num_classes, width=width)
            load_compressed(model, path)
        elif ":" in text and not path.exists():
            name, model = text, build_own_teacher(text, spec, num_classes, key="MODEL")
            if takes_text(model):
                raise UsageError(f"{text} takes texts: what runs on a device is fed with ids")
            model = _take_logits(model, spec)
        else:
            raise UsageError(f"expected a .safetensors file, an .onnx file or module:function, got {text!r}")
    _check_output(model, spec, num_classes, name=name)
    graph = export_graph(model, spec)
    return Given(name, graph, open_graph(graph.SerializeToString()), digest_weights(model), model.eval())


def _take_logits(model: nn.Module, spec: InputSpec) -> nn.Module:
    example = torch.zeros((2, *spec.sample_shape), dtype=getattr(torch, spec.dtype))
    try:
        with torch.no_grad():
            answer = model.eval()(example)
    except Exception:  # noqa: BLE001 - told with its layer by the check of its output
        return model
    return unwrap_logits(model, answer)


def export_graph(model: nn.Module, spec: InputSpec) -> onnx.ModelProto:
    """Exports a model in floats, its constants folded; raises `UsageError` that names the layer at fault."""
    try:
        return fold_constants(trace_model(model, spec))
    except FedStillError as error:
        example = torch.zeros((2, *spec.sample_shape), dtype=getattr(torch, spec.dtype))
        layer = find_untraceable_layer(model, example)
        raise UsageError(f"the layer {layer} cannot be traced: {error}") from None


def _check_output(model: nn.Module, spec: InputSpec, num_classes: int, *, name: str) -> None:
    example = torch.zeros((2, *spec.sample_shape), dtype=getattr(torch, spec.dtype))
    try:
        with torch.no_grad():
            found = tuple(model.eval()(example).shape)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        cause = str(error).strip().splitlines()[0]
        layer = find_untraceable_layer(model, example)
        raise UsageError(
            f"{name} cannot take the data's samples, {spec.sample_shape} {spec.dtype}, in layer {layer}:"
            f" {cause}"
        ) from None
    if found != (2, num_classes):
        raise UsageError(
            f"{name} gives {found} for two samples; expected logits (2, {num_classes}), a column per class"
        )


def _read_graph(path: Path, material: Material, student: nn.Module | None) -> Given:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or 'no such file'}") from None
    try:
        graph = fold_constants(onnx.load_from_string(content))
        predict = open_graph(graph.SerializeToString())
    except Exception as error:  # noqa: BLE001 ONNX and ONNX Runtime share no base of errors
        cause = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{path} is no ONNX graph from samples to logits: {cause}") from None
    spec, num_classes = material.spec, material.dataset.num_classes
    if predict.sample_shape != spec.sample_shape or predict.dtype != spec.dtype:
        raise DataError(
            f"{path} takes samples {predict.sample_shape} {predict.dtype}, the data holds"
            f" {spec.sample_shape} {spec.dtype}; put what prepares raw samples into the graph"
        )
    if predict.num_classes != num_classes:
        raise DataError(f"{path} gives {predict.num_classes} logits, the data has {num_classes} classes")
    digest = hashlib.sha256(content).hexdigest()
    return Given(path.name, graph, predict, digest, student, is_graph=True)


def predict_all(predict: Predictor, x_S: np.ndarray, *, batch_size: int = 256) -> np.ndarray:
    """Runs a predictor over raw samples in batches; returns logits (S, C)."""
    return np.concatenate(
        [predict(x_S[start : start + batch_size]) for start in range(0, len(x_S), batch_size)]
    )
