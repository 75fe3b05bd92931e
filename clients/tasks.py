"""What a node does with a task: prepare, learn, finish."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedstill.clients.choice import choice_to_proto, write_choice
from fedstill.clients.fetching import Fetcher, NodeContext
from fedstill.clients.labels import upload_array
from fedstill.clients.lessons import (
    Material,
    attempt,
    design_student,
    fetch_material,
    learn,
    learn_together,
    make_deadline,
    make_lesson,
    make_student_recovery,
    make_study,
    weights_seed,
    with_encoder,
)
from fedstill.clients.machine import name_machine
from fedstill.clients.node_store import write_costs, write_rows
from fedstill.clients.private import LabelledSamples, check_private
from fedstill.clients.schemes import Lesson, Outcome, Rows
from fedstill.common.artefact import collect_files, digest_files, write_artefact
from fedstill.common.compressors.exporting import ExportedModel
from fedstill.common.devices.suite import measure_quiet_latency
from fedstill.common.encoders import Encoder
from fedstill.common.errors import ExchangeError
from fedstill.common.inference import Predictor, open_graph, predict_probabilities
from fedstill.common.runtimes import get_runtime
from fedstill.common.students import (
    ExportedStudent,
    StudentDesign,
    build_student,
    describe_student,
    export_student,
)
from fedstill.common.training import count_bytes, count_parameters, digest_weights, save_weights
from fedstill.common.wire import predictions_to_proto
from fedstill.protos.fedstill.v1 import fleet_pb2


class Stopwatch:
    """Adds up seconds by phase."""

    def __init__(self) -> None:
        self.seconds = fleet_pb2.PhaseSeconds()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        setattr(self.seconds, name, getattr(self.seconds, name) + time.perf_counter() - start)


@dataclass(frozen=True)
class Assignment:
    """A task with everything at hand: what is learned from, and what the report will need."""

    node: NodeContext
    task: fleet_pb2.TaskRequest
    design: StudentDesign
    lesson: Lesson
    encoder: Encoder | None
    calibration_S: np.ndarray
    """Samples that the ranges of an artefact are measured on."""
    evaluation_S: np.ndarray
    validation_S: np.ndarray
    costs: list[dict[str, Any]]
    """What each step of compression cost so far; goes on as the lesson does."""
    is_found: bool
    """The student of the task's base round was here."""
    wire_bytes: int
    watch: Stopwatch


Job = tuple[NodeContext, fleet_pb2.TaskRequest]
Answer = fleet_pb2.TaskResponse | Exception


def run_task(node: NodeContext, task: fleet_pb2.TaskRequest) -> fleet_pb2.TaskResponse:
    """Carries out one round's task; the student and its artefact are on disk before it returns.

    Args:
        node: Data, cache and store of the node.
        task: The coordinator's task.

    Returns:
        The node's report.

    Raises:
        ExchangeError: Labels or samples could not be fetched, or the deadline passed.
        DataError: The node's data does not fit the coordinator's models.
    """
    assignment = prepare(node, task)
    with assignment.watch.phase("train"):
        outcome = learn(make_study(assignment.node, task, assignment.lesson))
    return finish(assignment, outcome)


def run_tasks(jobs: Sequence[Job]) -> list[Answer]:
    """Carries out tasks of one round side by side: students of a kind learn as one batch.

    Args:
        jobs: Nodes and their tasks.

    Returns:
        Each node's report, as `run_task` gives it, or what kept it from one.
    """
    materials: dict[bytes, Material] = {}
    prepared = [attempt(prepare, node, task, materials) for node, task in jobs]
    ready = [one for one in prepared if isinstance(one, Assignment)]
    began = time.perf_counter()
    outcomes = learn_together([make_study(one.node, one.task, one.lesson) for one in ready])
    for one in ready:
        one.watch.seconds.train += (time.perf_counter() - began) / len(ready)
    ends = iter(zip(ready, outcomes, strict=True))
    return [_end(*next(ends)) if isinstance(one, Assignment) else one for one in prepared]


def _end(assignment: Assignment, outcome: Outcome | Exception) -> Answer:
    return outcome if isinstance(outcome, Exception) else attempt(finish, assignment, outcome)


def prepare(
    node: NodeContext, task: fleet_pb2.TaskRequest, materials: dict[bytes, Material] | None = None
) -> Assignment:
    """Fetches what a task refers to and opens the student that it goes on from; see `run_task`.

    `materials` keeps what tasks beside this one referred to, by their `LabelSource`: many refer to the same.
    """
    give_up = make_deadline(task.deadline_seconds)
    design = design_student(task.plan, task.input)
    watch, fetcher = Stopwatch(), Fetcher(node, task.labels)
    encoder = fetcher.fetch_encoder()
    node = with_encoder(node, encoder)
    check_private(node.private, design.spec, num_classes=len(design.class_names))
    with watch.phase("fetch"):
        material = _recall(fetcher, task, design, {} if materials is None else materials)
        evaluation = fetcher.fetch(task.labels.evaluation_digest)
        validation = fetcher.fetch(task.labels.validation_digest)
    with watch.phase("train"):
        student = build_student(design, seed=weights_seed(task, node.private.node_id))
        base_round = 0 if task.starts_anew else task.base_round
        found = node.store.load_student(student, base_round=base_round)
        costs = node.store.read_costs(base_round) if found and base_round else []
        recovery = make_student_recovery(node, design, costs)
        lesson = make_lesson(node, task, student, material, recovery=recovery, give_up=give_up)
    calibration = node.private.train.x_S if material.public is None else material.public
    return Assignment(
        node=node,
        task=task,
        design=design,
        lesson=lesson,
        encoder=encoder,
        calibration_S=np.ascontiguousarray(calibration[: task.plan.num_calibration]),
        evaluation_S=evaluation,
        validation_S=validation,
        costs=costs,
        is_found=found,
        wire_bytes=fetcher.wire_bytes,
        watch=watch,
    )


def _recall(
    fetcher: Fetcher, task: fleet_pb2.TaskRequest, design: StudentDesign, materials: dict[bytes, Material]
) -> Material:
    source = task.labels
    key = source.SerializeToString(deterministic=True)
    if source.features_digest or key not in materials:  # features are projected by each node in its own way
        materials[key] = fetch_material(fetcher, task, design)
    return materials[key]


def evaluate_student(node: NodeContext, task: fleet_pb2.TaskRequest) -> fleet_pb2.TaskResponse:
    """Makes the artefact of a student that was left without one, and evaluates it; nothing is learned.

    Args:
        node: Data, cache and store of the node.
        task: As of the round that the student is of, its base too.

    Returns:
        The node's report, as `run_task` gives it.

    Raises:
        ExchangeError: Something could not be fetched, or the student is not here any more.
    """
    assignment = prepare(node, task)
    if not assignment.is_found:
        raise ExchangeError(f"the student of round {task.base_round} is not here")
    lesson = assignment.lesson
    unlearned = Outcome(lesson.student.eval(), float("nan"), float("nan"), choice=lesson.remembered)
    return finish(assignment, unlearned)


def finish(assignment: Assignment, outcome: Outcome) -> fleet_pb2.TaskResponse:
    """Compresses, evaluates, stores and sends what was learned, and reports it; see `run_task`."""
    node, task = assignment.node, assignment.task
    take = _keep if task.skips_evaluation else _compress
    reply = take(assignment, outcome)
    reply.run_id, reply.round, reply.node_id = task.run_id, task.round, node.private.node_id
    reply.state_reset = not assignment.is_found
    reply.distillation_loss, reply.private_loss = outcome.distillation_loss, outcome.private_loss
    reply.model.num_parameters = count_parameters(outcome.student)
    reply.model.fp32_bytes = count_bytes(outcome.student)
    reply.wire_bytes_down = assignment.wire_bytes
    reply.seconds.CopyFrom(assignment.watch.seconds)
    reply.student_digest = digest_weights(outcome.student)
    reply.num_steps = task.hyperparameters.num_steps
    reply.learned_together = outcome.learned_together
    reply.host = name_machine()
    if outcome.choice is not None:
        reply.choice.CopyFrom(choice_to_proto(outcome.choice))
    if outcome.upload is not None:
        _send(node, task, outcome.upload, reply)
    return reply


def _keep(assignment: Assignment, outcome: Outcome) -> fleet_pb2.TaskResponse:
    """Stores a student for the next round."""
    with assignment.watch.phase("export"), _write_round(assignment, outcome) as folder:
        write_costs(folder, assignment.costs)
    nothing = float("nan")
    return fleet_pb2.TaskResponse(private_validation_accuracy=nothing, private_test_accuracy=nothing)


@contextmanager
def _write_round(assignment: Assignment, outcome: Outcome) -> Iterator[Path]:
    task = assignment.task
    with assignment.node.store.write_round(task.round, base_round=task.base_round) as folder:
        save_weights(outcome.student, folder / "student.safetensors")
        if outcome.upload is not None:
            write_rows(folder, outcome.upload)
        if outcome.choice is not None:
            write_choice(folder, outcome.choice)
        yield folder


def _compress(assignment: Assignment, outcome: Outcome) -> fleet_pb2.TaskResponse:
    """Makes a student's artefact, evaluates it, and stores both."""
    node, watch = assignment.node, assignment.watch
    with watch.phase("export"):
        exported = export_student(
            outcome.student,
            assignment.design,
            calibration_S=assignment.calibration_S,
            graphs_dir=node.graphs_dir,
        )
        manifest = _describe(assignment, outcome, exported)
    with watch.phase("evaluate"):
        reply = _evaluate(assignment, exported, manifest)
    with watch.phase("export"), _write_round(assignment, outcome) as folder:
        files = collect_files(exported.model.files, encoder=assignment.encoder)
        reply.model.artefact_bytes = write_artefact(folder / "artefact", files, manifest)
    reply.artefact_digest = digest_files(files)
    return reply


def _describe(assignment: Assignment, outcome: Outcome, exported: ExportedStudent) -> dict[str, Any]:
    node, task = assignment.node, assignment.task
    manifest = describe_student(
        outcome.student,
        assignment.design,
        exported,
        num_calibration=len(assignment.calibration_S),
        costs=assignment.costs,
        origin={
            "node_id": node.private.node_id,
            "round": task.round,
            "student_sha256": digest_weights(outcome.student),
        },
    )
    manifest["split"] = {"seed": task.seed, "test_fraction": node.config.data.test_fraction}
    return manifest


def _evaluate(
    assignment: Assignment, exported: ExportedStudent, manifest: dict[str, Any]
) -> fleet_pb2.TaskResponse:
    """Begins the report with what the artefact does, and enters into its manifest what that cost."""
    private, evaluation_S = assignment.node.private, assignment.evaluation_S
    predict, fp32_predict = open_exported(exported.model), open_graph(exported.fp32_model)
    reply = fleet_pb2.TaskResponse(
        evaluation=predictions_to_proto(predict_probabilities(predict, evaluation_S)),
        evaluation_fp32=predictions_to_proto(predict_probabilities(fp32_predict, evaluation_S)),
        validation=predictions_to_proto(predict_probabilities(predict, assignment.validation_S)),
        private_validation_accuracy=measure_private(predict, private.validation),
        private_test_accuracy=measure_private(predict, private.test),
    )
    if assignment.task.wants_latency:
        reply.latency_seconds_batch1 = measure_quiet_latency(predict, evaluation_S)
        reply.fp32_latency_seconds_batch1 = measure_quiet_latency(fp32_predict, evaluation_S)
    compression = assignment.design.compression
    if compression.bits != 32 or compression.storage == "packed":
        manifest["compression"]["steps"].append(
            {
                "step": "quantise",
                **_quantising_cost(private.validation, fp32_predict, reply),
                "bytes_before": manifest["fp32_bytes"],
                "bytes_after": sum(map(len, exported.model.files.values())),
            }
        )
    manifest["private_accuracy"] = {
        "value": reply.private_test_accuracy if len(private.test) else None,
        "n": len(private.test),
    }
    return reply


def _send(
    node: NodeContext, task: fleet_pb2.TaskRequest, upload: Rows, reply: fleet_pb2.TaskResponse
) -> None:
    exchange = node.config.exchange
    answers_labels = bool(task.labels.public_digest)
    shared_S = upload.counts_R > 0
    is_part = answers_labels and not shared_S.all()
    sent = upload_array(
        task.labels.address,
        upload.values[shared_S] if is_part else upload.values,
        run_id=task.run_id,
        round_number=task.round,
        node_id=node.private.node_id,
        nonce=task.upload_nonce,
        transport=node.transport,
        codec=task.upload_codec if answers_labels else "raw",
        temperature=task.hyperparameters.temperature,
        covered_S=shared_S if is_part else None,
        chunk_bytes=exchange.chunk_bytes,
        timeout_seconds=exchange.timeout_seconds,
    )
    reply.upload_digest, reply.upload_bytes = sent.digest, sent.num_bytes
    if not answers_labels:
        reply.upload_counts.extend(upload.counts_R.tolist())
    elif task.hyperparameters.wants_class_counts:
        counts_C = np.bincount(node.private.train.y_S, minlength=upload.values.shape[1])
        reply.upload_counts.extend(counts_C.tolist())


def _quantising_cost(
    samples: LabelledSamples, fp32_predict: Predictor, reply: fleet_pb2.TaskResponse
) -> dict[str, float | None]:
    if not len(samples):
        return {"accuracy_before": None, "accuracy_at_once": None}
    return {
        "accuracy_before": measure_private(fp32_predict, samples),
        "accuracy_at_once": reply.private_validation_accuracy,
    }


def open_exported(model: ExportedModel) -> Predictor:
    return get_runtime(model.runtime).open(model.files, num_threads=1, options=model.session_options)


def measure_private(predict: Predictor, samples: LabelledSamples) -> float:
    if not len(samples):
        return float("nan")
    predicted = predict_probabilities(predict, samples.x_S).argmax(axis=1)
    return float(np.mean(predicted == samples.y_S))
