"""What a candidate may be expected to reach: a short distillation here, scored on the validation part.

A pilot is shorter than a run and has no private data, so its accuracy is lower than what
comes out; it is used to rank candidates, and never looks at a test part. With a teacher it
learns from the public set's soft labels, as nodes do; where the scheme has none, from the
server's own labelled samples.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from fedstill.common.compressors.exporters import EXPORTERS
from fedstill.common.compressors.recovery import make_recovery
from fedstill.common.files import write_text_atomically
from fedstill.common.inference import predict_probabilities
from fedstill.common.installation import describe_versions
from fedstill.common.losses import LOSSES, get_loss
from fedstill.common.models import MODELS
from fedstill.common.runtimes import get_runtime
from fedstill.common.seeding import stream, stream_seed
from fedstill.common.students import build_student, export_student
from fedstill.common.training import Batch, Optimisation, deterministic, digest_weights, fit, shuffled_batches
from fedstill.server.exchange.exchange import Exchange
from fedstill.server.planner.candidates import Candidate
from fedstill.server.planner.measuring import Subject

NUM_STEPS = 300
MAX_SAMPLES = 4096


@dataclass(frozen=True)
class Pilot:
    """What a pilot found."""

    accuracy: float
    """Of the compressed artefact on the server's validation part."""
    step_seconds: float
    """Median of its training steps on this host, one thread."""


def run_pilots(
    candidates: Sequence[Candidate],
    subject: Subject,
    exchange: Exchange,
    *,
    cache_dir: Path,
    on_done: Callable[[int], None] = lambda _: None,
) -> dict[Candidate, Pilot]:
    """Runs the pilots of candidates, or reads what they found before.

    Candidates of one architecture share a training where compression comes after it.

    Args:
        candidates: What to try.
        subject: What they are built for.
        exchange: The run's data and teacher.
        cache_dir: Folder of results.
        on_done: Told how many are done.

    Returns:
        Pilot by candidate.
    """
    origin = _identify_origin(exchange)
    trained: dict[Candidate, tuple[nn.Module, float]] = {}
    found = {}
    for number, candidate in enumerate(candidates, start=1):
        path = cache_dir / f"{_identify(candidate, subject, exchange, origin)}.json"
        pilot = _read(path)
        if pilot is None:
            # One training serves all that is done to a student after it.
            kind = candidate if candidate.compression.changes_training else candidate.uncompressed
            if kind not in trained:
                trained = {kind: train_pilot(kind, subject, exchange)}
            student, step_seconds = trained[kind]
            accuracy = score_pilot(student, candidate, subject, exchange)
            pilot = Pilot(accuracy, step_seconds)
            write_text_atomically(path, json.dumps(asdict(pilot)) + "\n")
        found[candidate] = pilot
        on_done(number)
    return found


def _identify_origin(exchange: Exchange) -> str:
    """Names what pilots learn from and are scored on."""
    publication = exchange.publication
    parts = [publication.validation_digest.hex()]
    if exchange.teacher is not None:
        parts += [digest_weights(exchange.teacher.model), publication.public_digest.hex()]
    elif exchange.given_origin:
        parts += [exchange.given_origin, publication.public_digest.hex()]
    else:
        train = exchange.splits.server_train
        parts.append(
            hashlib.sha256(np.ascontiguousarray(exchange.dataset.x_train[train]).tobytes()).hexdigest()
        )
    return "\x1f".join(parts)


def _identify(candidate: Candidate, subject: Subject, exchange: Exchange, origin: str) -> str:
    distill = exchange.config.distill
    identity = {
        "origin": origin,
        "candidate": [candidate.model, candidate.width, candidate.compression.to_json()],
        "spec": asdict(subject.spec),
        "distill": [distill.loss, distill.temperature, distill.batch_size, distill.learning_rate],
        "decay": distill.weight_decay,
        "steps": [NUM_STEPS, MAX_SAMPLES, exchange.config.seed],
        "versions": describe_versions("torch", "onnxruntime"),
    }
    own = [MODELS.digest_code(candidate.model), LOSSES.digest_code(distill.loss)]
    own += [EXPORTERS.digest_code(candidate.compression.runtime)]
    if any(own):
        identity["code"] = own
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> Pilot | None:
    try:
        return Pilot(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def train_pilot(candidate: Candidate, subject: Subject, exchange: Exchange) -> tuple[nn.Module, float]:
    """Trains the student of a candidate for `NUM_STEPS` steps.

    Returns:
        The student in evaluation mode, and the median seconds of a step.
    """
    config = exchange.config
    student = build_student(subject.design(candidate), seed=stream_seed(config.seed, "pilot-weights"))
    recovery = make_recovery(
        candidate.compression,
        subject.spec,
        design=build_student(subject.design(candidate), seed=0),
        measure=lambda _: None,
        costs=[],
    )
    ends = [time.perf_counter()]

    def note(_: int) -> bool:
        ends.append(time.perf_counter())
        return False

    loss = get_loss(config.distill.loss)

    def from_labels(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, ...]:
        return (loss(model(batch[0]), batch[1], temperature=config.distill.temperature),)

    def from_classes(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, ...]:
        return (functional.cross_entropy(model(batch[0]), batch[1]),)

    with deterministic(stream_seed(config.seed, "pilot-torch"), num_threads=1):
        fit(
            student,
            _batches(exchange),
            from_labels if exchange.has_teacher_labels else from_classes,
            loss_weights=(1.0,),
            num_steps=NUM_STEPS,
            optimisation=Optimisation.of(config.distill),
            on_step=note,
            guest=None if recovery is None else recovery(NUM_STEPS),
        )
    return student, float(np.median(np.diff(ends)))


def _batches(exchange: Exchange) -> Iterator[Batch]:
    config, dataset, splits = exchange.config, exchange.dataset, exchange.splits
    if exchange.has_teacher_labels:
        index_S = splits.public[:MAX_SAMPLES]
        answers: np.ndarray = np.array(
            exchange.store.logits(exchange.publication.label_set_id)[: len(index_S)]
        )
    else:
        index_S = splits.server_train[:MAX_SAMPLES]
        answers = dataset.y_train[index_S]
    x_S = dataset.x_train[index_S]
    rng = stream(config.seed, "pilot-batches")
    for index in shuffled_batches(len(index_S), config.distill.batch_size, rng):
        yield torch.from_numpy(x_S[index]), torch.from_numpy(answers[index])


def score_pilot(student: nn.Module, candidate: Candidate, subject: Subject, exchange: Exchange) -> float:
    """Exports a pilot's student as planned and measures its accuracy on the server's validation part."""
    exported = export_student(student, subject.design(candidate), calibration_S=subject.calibration_S)
    model = exported.model
    predict = get_runtime(model.runtime).open(model.files, num_threads=1, options=model.session_options)
    validation = exchange.splits.server_validation
    predicted = predict_probabilities(predict, exchange.dataset.x_train[validation]).argmax(axis=1)
    return float(np.mean(predicted == exchange.dataset.y_train[validation]))
