"""From a model to a row: its artefact written, read back, and measured as a device runs it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from torch import nn

from fedstill.common.artefact import collect_files, digest_files, read_artefact, write_artefact
from fedstill.common.compressors import CompressionPlan
from fedstill.common.compressors.exporting import ExportedModel, ExportJob, export_model
from fedstill.common.costs import count_macs, measure_peak_memory
from fedstill.common.inference import Predictor, measure_latency
from fedstill.common.installation import describe_versions
from fedstill.server.compress.given import Given, predict_all
from fedstill.server.compress.records import Material, Row

ARTEFACT_DIR = "artefact"
_BATCH_SIZE = 64


def export_plan(
    model: nn.Module | None, graph: onnx.ModelProto, plan: CompressionPlan, material: Material
) -> ExportedModel:
    """Writes the files of a model as its plan says; raises as `export_model`."""
    # Of an ONNX file there is a graph only; what asks for a module was refused before.
    job = ExportJob(model or nn.Identity(), graph, material.spec, plan, material.calibration_S)
    return export_model(job)


def measure_row(
    name: str,
    kind: str,
    exported: ExportedModel,
    plan: CompressionPlan,
    *,
    model: nn.Module | None,
    graph: onnx.ModelProto,
    given: Given,
    material: Material,
    folder: Path,
    train_seconds: float,
) -> Row:
    """Writes an artefact and measures everything but its speed.

    Args:
        name: Name of the row.
        kind: "given", "control" or "plan".
        exported: The files.
        plan: What was done.
        model: The module behind them; None where there is a graph only.
        graph: The same in floats.
        given: What it is compared with.
        material: The data.
        folder: Where the row lives.
        train_seconds: What training took.

    Returns:
        The row, without latencies.
    """
    spec, dataset = material.spec, material.dataset
    num_parameters = (
        sum(int(np.prod(tensor.dims)) for tensor in graph.graph.initializer)
        if model is None
        else sum(parameter.numel() for parameter in model.parameters())
    )
    files = collect_files(exported.files, encoder=material.encoder)
    artefact_dir = folder / ARTEFACT_DIR
    artefact_bytes = write_artefact(
        artefact_dir, files, _describe(exported, plan, material, given, num_parameters)
    )
    predict = read_artefact(artefact_dir).predict
    x_validation = dataset.x_train[material.validation]
    validation = predict_all(predict, x_validation).argmax(axis=1)
    test = predict_all(predict, dataset.x_test).argmax(axis=1)
    taught = predict_all(given.predict, dataset.x_test).argmax(axis=1)
    return Row.model_validate(
        {
            "name": name,
            "kind": kind,
            "plan": plan.to_json(),
            "method": exported.method,
            "speeds_up": exported.speeds_up,
            "runtime": exported.runtime,
            "validation_accuracy": float(np.mean(validation == dataset.y_train[material.validation])),
            "accuracy": float(np.mean(test == dataset.y_test)),
            "agreement": float(np.mean(test == taught)),
            "num_parameters": num_parameters,
            "macs": None if model is None else count_macs(model, spec.sample_shape, spec.dtype),
            "model_bytes": sum(map(len, exported.files.values())),
            "artefact_bytes": artefact_bytes,
            "peak_memory_bytes": measure_peak_memory(artefact_dir),
            "train_seconds": train_seconds,
            "artefact": f"{folder.name}/{ARTEFACT_DIR}",
            "digest": digest_files(files),
        }
    )


def _describe(
    exported: ExportedModel, plan: CompressionPlan, material: Material, given: Given, num_parameters: int
) -> dict[str, Any]:
    spec, dataset = material.spec, material.dataset
    return {
        "runtime": exported.runtime,
        **({"session_options": exported.session_options} if exported.session_options else {}),
        "input": {
            "task": spec.task,
            "shape": list(spec.sample_shape),
            "dtype": spec.dtype,
            "layout": spec.layout,
            **({"features": list(dataset.feature_names)} if dataset.feature_names else {}),
        },
        "classes": list(dataset.class_names),
        "family": given.name,
        "num_parameters": num_parameters,
        "compression": {
            "method": exported.method,
            "bits": plan.bits,
            "num_calibration": len(material.calibration_S),
            "plan": plan.to_json(),
        },
        "versions": describe_versions("onnxruntime", "torch"),
        "origin": {"model_digest": given.digest, "data_digest": material.digest},
    }


def measure_speed(
    rows: Sequence[Row], material: Material, *, output_dir: Path, budget_seconds: float
) -> list[Row]:
    """Measures the latency of all artefacts in this process, one after the other, twice.

    Args:
        rows: What was measured so far.
        material: The data; its test part is run.
        output_dir: Where the artefacts lie.
        budget_seconds: Time for each of the measurements of an artefact, seconds.

    Returns:
        The rows with latencies: of two passes over all artefacts the faster, since what
        else a machine does only ever slows a program down.
    """
    x_S = material.dataset.x_test
    repeated = np.concatenate([x_S] * (-(-_BATCH_SIZE // len(x_S))))[:_BATCH_SIZE]
    predictors: list[Predictor] = [read_artefact(output_dir / row.artefact).predict for row in rows]
    passes = [
        [
            tuple(
                measure_latency(predict, repeated, batch_size=size, budget_seconds=budget_seconds)
                for size in (1, _BATCH_SIZE)
            )
            for predict in predictors
        ]
        for _ in range(2)
    ]
    return [
        row.model_copy(
            update={
                "latency_seconds_batch1": min(one[0] for one in found),
                "latency_seconds_batch64": min(one[1] for one in found),
            }
        )
        for row, found in zip(rows, zip(*passes, strict=True), strict=True)
    ]
