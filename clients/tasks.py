"""What a node does with a task: fetch, train, compress, evaluate, store, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from fedstill.clients.choice import choice_to_proto, read_choice, write_choice
from fedstill.clients.distil import Distillation, SoftLabels
from fedstill.clients.fetching import Fetcher, NodeContext, fetch_labels, fetch_shared
from fedstill.clients.labels import upload_array
from fedstill.clients.machine import name_machine
from fedstill.clients.node_store import read_rows, write_rows
from fedstill.clients.private import LabelledSamples, check_private, encode_private
from fedstill.clients.schemes import Lesson, Outcome, Rows, get_learner, settle
from fedstill.common.artefact import collect_files, digest_files, read_costs, write_artefact
from fedstill.common.compressors.exporting import ExportedModel
from fedstill.common.compressors.recovery import Recovery, make_recovery
from fedstill.common.config import DistillConfig
from fedstill.common.devices.suite import measure_quiet_latency
from fedstill.common.encoders import Encoder
from fedstill.common.errors import ExchangeError
from fedstill.common.inference import Predictor, open_graph, predict_probabilities
from fedstill.common.losses import get_loss
from fedstill.common.runtimes import get_runtime
from fedstill.common.seeding import stream, stream_seed
from fedstill.common.students import StudentDesign, build_student, describe_student, export_student
from fedstill.common.training import (
    Optimisation,
    deterministic,
    digest_weights,
    predict_logits,
    save_weights,
)
from fedstill.common.views import Views, open_views
from fedstill.common.wire import (
    input_from_proto,
    plan_from_proto,
    predictions_to_proto,
    settings_from_proto,
    views_from_proto,
)
from fedstill.protos.fedstill.v1 import fleet_pb2


class _Stopwatch:
    """Adds up seconds by phase."""

    def __init__(self) -> None:
        self.seconds = fleet_pb2.PhaseSeconds()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        setattr(self.seconds, name, getattr(self.seconds, name) + time.perf_counter() - start)


def design_student(plan: fleet_pb2.StudentPlan, message: fleet_pb2.InputSpec) -> StudentDesign:
    """Reads a student's design from a task."""
    return StudentDesign(
        plan.model,
        plan.width,
        plan_from_proto(plan),
        input_from_proto(message),
        tuple(message.class_names),
        tuple(message.feature_names),
    )


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
    give_up = make_deadline(task.deadline_seconds)
    design = design_student(task.plan, task.input)
    watch, fetcher = _Stopwatch(), Fetcher(node, task.labels)
    encoder = fetcher.fetch_encoder()
    node = with_encoder(node, encoder)
    check_private(node.private, design.spec, num_classes=len(design.class_names))
    node_id = node.private.node_id

    with watch.phase("fetch"):
        public = fetcher.fetch_public() if task.labels.public_digest else None
        rows = (
            None if public is None else open_views(public, views_from_proto(task.labels.views), design.spec)
        )
        labels = fetch_labels(fetcher, task, rows)
        shared = fetch_shared(fetcher, task.labels)
        evaluation = fetcher.fetch(task.labels.evaluation_digest)
        validation = fetcher.fetch(task.labels.validation_digest)
    with watch.phase("train"):
        initial = build_student(design, seed=weights_seed(task, node_id))
        base_round = 0 if task.starts_anew else task.base_round
        found = node.store.load_student(initial, base_round=base_round)
        costs = read_costs(node.store.artefact_dir(base_round)) if found and base_round else []
        recovery = make_student_recovery(node, design, costs)
        outcome = learn_round(node, task, initial, rows, labels, shared, recovery, give_up)
    student = outcome.student
    with watch.phase("export"):
        calibration = node.private.train.x_S if public is None else public
        calibration = np.ascontiguousarray(calibration[: task.plan.num_calibration])
        exported = export_student(student, design, calibration_S=calibration, graphs_dir=node.graphs_dir)
        student_digest = digest_weights(student)
        manifest = describe_student(
            student,
            design,
            exported,
            num_calibration=len(calibration),
            costs=costs,
            origin={
                "run_id": task.run_id,
                "node_id": node_id,
                "round": task.round,
                "student_sha256": student_digest,
            },
        )
    with watch.phase("evaluate"):
        predict, fp32_predict = open_exported(exported.model), open_graph(exported.fp32_model)
        reply = _evaluate(node, predict, fp32_predict, evaluation, validation)
        if task.wants_latency:
            reply.latency_seconds_batch1 = measure_quiet_latency(predict, evaluation)
            reply.fp32_latency_seconds_batch1 = measure_quiet_latency(fp32_predict, evaluation)
        if design.compression.bits != 32 or design.compression.storage == "packed":
            manifest["compression"]["steps"].append(
                {
                    "step": "quantise",
                    **_quantising_cost(node.private.validation, fp32_predict, reply),
                    "bytes_before": manifest["fp32_bytes"],
                    "bytes_after": sum(map(len, exported.model.files.values())),
                }
            )
    manifest["split"] = {"seed": task.seed, "test_fraction": node.config.data.test_fraction}
    manifest["private_accuracy"] = {
        "value": reply.private_test_accuracy if len(node.private.test) else None,
        "n": len(node.private.test),
    }
    with watch.phase("export"), node.store.write_round(task.round, base_round=task.base_round) as folder:
        save_weights(student, folder / "student.safetensors")
        if outcome.upload is not None:
            write_rows(folder, outcome.upload)
        if outcome.choice is not None:
            write_choice(folder, outcome.choice)
        files = collect_files(exported.model.files, encoder=encoder)
        artefact_bytes = write_artefact(folder / "artefact", files, manifest)
    reply.run_id, reply.round, reply.node_id = task.run_id, task.round, node_id
    reply.state_reset = not found
    reply.distillation_loss, reply.private_loss = outcome.distillation_loss, outcome.private_loss
    reply.model.num_parameters = manifest["num_parameters"]
    reply.model.fp32_bytes = manifest["fp32_bytes"]
    reply.model.artefact_bytes = artefact_bytes
    reply.wire_bytes_down = fetcher.wire_bytes
    reply.seconds.CopyFrom(watch.seconds)
    reply.student_digest = student_digest
    reply.artefact_digest = digest_files(files)
    reply.num_steps = task.hyperparameters.num_steps
    reply.host = name_machine()
    if outcome.choice is not None:
        reply.choice.CopyFrom(choice_to_proto(outcome.choice))
    if outcome.upload is not None:
        _send(node, task, outcome.upload, reply)
    return reply


def weights_seed(task: fleet_pb2.TaskRequest, node_id: str) -> int:
    # Averaging only makes sense from a common beginning; elsewhere each node has its own.
    node = "" if task.hyperparameters.begins_together else node_id
    return stream_seed(task.seed, "student-weights", node=node)


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


def learn_round(
    node: NodeContext,
    task: fleet_pb2.TaskRequest,
    student: nn.Module,
    public: np.ndarray | Views | None,
    labels: SoftLabels | None,
    shared: Rows | None,
    recovery: Callable[[int], Recovery] | None,
    give_up: Callable[[int], bool],
) -> Outcome:
    hyper, settings = task.hyperparameters, settings_from_proto(task.hyperparameters)
    node_id = node.private.node_id
    torch_seed = stream_seed(task.seed, "student-torch", node=node_id, round_number=task.round)
    lesson = Lesson(
        student=student,
        train=node.private.train,
        validation=node.private.validation,
        num_classes=len(task.input.class_names),
        public_S=public,
        labels=labels,
        shared=shared,
        own=read_rows(node.store.round_dir(task.shared_round)) if task.shared_round else None,
        own_weight=task.shared_weight or 1.0,
        distillation=Distillation(
            get_loss(settings.loss), settings.temperature, settings.lambda_, settings.batch_size
        ),
        optimisation=make_optimisation(settings, node.device),
        num_steps=hyper.num_steps,
        proximal_mu=hyper.proximal_mu,
        wants_upload=task.wants_upload,
        selective_quantile=hyper.selective_quantile,
        revisit_ratio=hyper.revisit_ratio,
        rng=stream(task.seed, "student-batches", node=node_id, round_number=task.round),
        on_step=give_up,
        recovery=recovery,
        is_adaptive=settings.mode == "auto",
        remembered=read_choice(node.store.round_dir(task.base_round)) if task.base_round else None,
    )
    with deterministic(torch_seed, num_threads=node.config.federation.threads_per_node):
        outcome = get_learner(hyper.scheme)(lesson)
        settle(lesson, outcome)
    return outcome


def make_optimisation(settings: DistillConfig, device: str) -> Optimisation:
    return Optimisation(settings.learning_rate, settings.weight_decay, device)


def make_student_recovery(
    node: NodeContext, design: StudentDesign, costs: list[dict[str, Any]]
) -> Callable[[int], Recovery] | None:
    """Makes what compresses a student while it trains; the node's validation part says what it costs."""
    if not design.compression.changes_training:
        return None
    samples = node.private.validation

    def measure(model: nn.Module) -> float | None:
        if not len(samples):
            return None
        return float(np.mean(predict_logits(model, samples.x_S).argmax(axis=1) == samples.y_S))

    untouched = build_student(design, seed=0)
    return make_recovery(design.compression, design.spec, design=untouched, measure=measure, costs=costs)


def with_encoder(node: NodeContext, encoder: Encoder | None) -> NodeContext:
    return node if encoder is None else replace(node, private=encode_private(node.private, encoder))


def make_deadline(seconds: float) -> Callable[[int], bool]:
    end = time.monotonic() + seconds

    def give_up(step: int) -> bool:
        if seconds and time.monotonic() > end:
            raise ExchangeError(f"gave up at step {step}: the round's deadline of {seconds:g} s has passed")
        return False

    return give_up


def _evaluate(
    node: NodeContext,
    predict: Predictor,
    fp32_predict: Predictor,
    evaluation: np.ndarray,
    validation: np.ndarray,
) -> fleet_pb2.TaskResponse:
    return fleet_pb2.TaskResponse(
        evaluation=predictions_to_proto(predict_probabilities(predict, evaluation)),
        evaluation_fp32=predictions_to_proto(predict_probabilities(fp32_predict, evaluation)),
        validation=predictions_to_proto(predict_probabilities(predict, validation)),
        private_validation_accuracy=measure_private(predict, node.private.validation),
        private_test_accuracy=measure_private(predict, node.private.test),
    )


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
