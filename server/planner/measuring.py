"""What a candidate costs, measured: a student with random weights is exported, written and run.

Bytes, memory and latency do not depend on what the weights are, so nothing has to be
trained for them. What was measured is kept on disk, by everything that it depends on.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fedstill.common.artefact import collect_files, write_artefact
from fedstill.common.compressors.exporters import EXPORTERS
from fedstill.common.compressors.lowrank import factorise_layers
from fedstill.common.compressors.pruning import count_channels, prune_channels
from fedstill.common.costs import count_macs
from fedstill.common.devices.suite import measure_quiet_latency
from fedstill.common.encoders import Encoder
from fedstill.common.errors import FedStillError
from fedstill.common.files import write_text_atomically
from fedstill.common.inference import describe_host
from fedstill.common.installation import describe_versions
from fedstill.common.models import MODELS, InputSpec
from fedstill.common.runtimes import get_runtime
from fedstill.common.students import StudentDesign, build_student, describe_student, export_student
from fedstill.common.training import count_bytes, count_parameters
from fedstill.server.planner.candidates import Candidate
from fedstill.server.planner.choice import computes_in

_FLOAT_BYTES = 4
# Raised where manifests change: what was measured with another one is of another size.
MANIFEST_VERSION = 2


@dataclass(frozen=True)
class Cost:
    """What a candidate costs on this host."""

    artefact_bytes: int
    memory_bytes: int
    num_parameters: int
    num_macs: int
    latency_seconds: float


@dataclass(frozen=True)
class Subject:
    """What candidates are built for: samples, classes, and a few samples to calibrate with."""

    spec: InputSpec
    class_names: tuple[str, ...]
    feature_names: tuple[str, ...]
    calibration_S: np.ndarray
    encoder: Encoder | None = None

    def design(self, candidate: Candidate) -> StudentDesign:
        """Makes a student's design of a candidate."""
        return StudentDesign(
            candidate.model,
            candidate.width,
            candidate.compression,
            self.spec,
            self.class_names,
            self.feature_names,
        )


def measure_costs(
    candidates: Sequence[Candidate],
    subject: Subject,
    *,
    cache_dir: Path,
    on_done: Callable[[int], None] = lambda _: None,
    on_skip: Callable[[str], None] = lambda _: None,
) -> dict[Candidate, Cost]:
    """Measures candidates, or reads what was measured before on this host.

    Args:
        candidates: What to measure.
        subject: What they are built for.
        cache_dir: Folder of measurements.
        on_done: Told how many are done.
        on_skip: Told of a candidate that cannot be exported, and why.

    Returns:
        Cost by candidate; those that cannot be exported are left out.
    """
    found = {}
    for number, candidate in enumerate(candidates, start=1):
        path = cache_dir / f"{_identify(candidate, subject)}.json"
        cost = _read(path)
        if cost is None:
            try:
                cost = measure_cost(candidate, subject)
            except FedStillError as error:
                if candidate == candidate.uncompressed:
                    raise
                on_skip(f"{candidate.describe()} is no candidate: {error}")
                continue
            write_text_atomically(path, json.dumps(asdict(cost)) + "\n")
        found[candidate] = cost
        on_done(number)
    return found


def _identify(candidate: Candidate, subject: Subject) -> str:
    versions = describe_versions("torch", "onnxruntime")
    encoder = subject.encoder.to_json() if subject.encoder else b""
    identity: dict[str, Any] = {
        "candidate": [candidate.model, candidate.width, candidate.compression.to_json()],
        "spec": asdict(subject.spec),
        "names": [subject.class_names, subject.feature_names],
        "encoder": hashlib.sha256(encoder).hexdigest(),
        "host": describe_host(),
        "versions": versions,
        "manifest": MANIFEST_VERSION,
    }
    own = [MODELS.digest_code(candidate.model), EXPORTERS.digest_code(candidate.compression.runtime)]
    if any(own):
        identity["code"] = own
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> Cost | None:
    try:
        return Cost(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def measure_cost(candidate: Candidate, subject: Subject) -> Cost:
    """Measures one candidate: a real artefact, written to disk and run at batch 1."""
    design = subject.design(candidate)
    student = build_student(design, seed=0)
    reshape_student(student, candidate, subject.spec)
    exported = export_student(student, design, calibration_S=subject.calibration_S)
    # What each step is said to have cost, with figures of the usual length.
    costs = [
        {
            "step": step,
            "accuracy_before": 2 / 3,
            "accuracy_at_once": 2 / 3,
            "bytes_before": count_bytes(student),
            "bytes_after": count_bytes(student),
        }
        for step in candidate.compression.steps
    ]
    origin = {"node_id": "node-0000", "round": 10, "student_sha256": "0" * 64}
    manifest = describe_student(
        student, design, exported, num_calibration=len(subject.calibration_S), costs=costs, origin=origin
    )
    # What the rounds and the end of a run add, with figures of the usual length.
    manifest |= {
        "split": {"seed": 0, "test_fraction": 0.2},
        "private_accuracy": {"value": 2 / 3, "n": 1000},
        "accuracy": {"value": 2 / 3, "n": 10_000},
        "uncompressed_accuracy": {"value": 2 / 3, "n": 10_000},
    }
    files = collect_files(exported.model.files, encoder=subject.encoder)
    with tempfile.TemporaryDirectory() as folder:
        artefact_bytes = write_artefact(Path(folder), files, manifest)
    runtime = get_runtime(exported.model.runtime)
    predict = runtime.open(exported.model.files, num_threads=1, options=exported.model.session_options)
    is_integer = computes_in(candidate.arithmetic) == "int8"
    plain = (
        exported.model.files.values()
        if runtime.to_graph is None
        else [runtime.to_graph(exported.model.files)]
    )
    weights = sum(map(len, plain)) if is_integer else count_bytes(student)
    return Cost(
        artefact_bytes=artefact_bytes,
        memory_bytes=weights + measure_activations(student, subject.calibration_S[:1]),
        num_parameters=count_parameters(student),
        num_macs=count_macs(student, subject.spec.sample_shape, subject.spec.dtype),
        latency_seconds=measure_quiet_latency(predict, subject.calibration_S[:1], budget_seconds=0.3),
    )


def reshape_student(student: nn.Module, candidate: Candidate, spec: InputSpec) -> None:
    """Gives a student with random weights the shapes that its compression leaves.

    Pruning takes the same part of every layer whatever the weights are; the ranks that
    random weights need are higher than those of trained ones, so low rank is overestimated.
    """
    plan = candidate.compression
    if "prune" in plan.steps:
        prune_channels(
            student, spec, original=count_channels(student), ratio=plan.prune_ratio, importance="magnitude"
        )
    if "lowrank" in plan.steps:
        factorise_layers(student, energy=plan.energy, most=plan.rank)


def measure_activations(model: nn.Module, x_S: np.ndarray) -> int:
    """Measures the bytes of the largest layer's input and output together, in floats."""
    largest = 0

    def look(_: nn.Module, taken: tuple[Any, ...], given: Any) -> None:
        nonlocal largest
        tensors = [part for part in (*taken, given) if isinstance(part, torch.Tensor)]
        largest = max(largest, sum(tensor.numel() for tensor in tensors) * _FLOAT_BYTES)

    leaves = [module for module in model.modules() if not list(module.children())]
    handles = [module.register_forward_hook(look) for module in leaves]
    try:
        with torch.no_grad():
            model.eval()(torch.from_numpy(np.array(x_S)))
    finally:
        for handle in handles:
            handle.remove()
    return largest
