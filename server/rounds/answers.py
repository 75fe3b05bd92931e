"""From a node's answer to figures: checked, scored and accounted for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedstill.common.wire import plan_from_proto, predictions_from_proto
from fedstill.protos.fedstill.v1 import fleet_pb2
from fedstill.server.exchange.publication import Publication
from fedstill.server.figures.scoring import (
    Truth,
    calibration_error,
    chance_agreement,
    describe_compression,
    measure_accuracy,
)
from fedstill.server.rounds.choices import describe_choice
from fedstill.server.rounds.parts import Federation
from fedstill.server.run.events import NodeReported
from fedstill.server.run.records import NodeRecord, PhaseSeconds
from fedstill.server.run.state import NodeState
from fedstill.server.schemes import Contribution

Receive = Callable[[fleet_pb2.TaskResponse], Contribution]


@dataclass(frozen=True)
class Evaluation:
    """What an artefact predicted, and the figures of `NodeRecord` that come of it."""

    figures: dict[str, Any]
    classes_S: np.ndarray
    confidences_S: np.ndarray
    fp32_classes_S: np.ndarray
    validation_hits_S: np.ndarray


@dataclass(frozen=True)
class ReplyScore:
    """One accepted answer."""

    round: int
    node_id: str
    figures: NodeRecord
    """What `rounds.jsonl` says of the node; what was moved is accounted for later."""
    evaluation: Evaluation | None
    """None in a round without one."""
    task_bytes: int
    report_bytes: int
    prediction_bytes: int
    contribution: Contribution | None = None

    def without_predictions(self) -> ReplyScore:
        """The same, without what a thousand nodes' evaluation would fill the memory with."""
        if self.evaluation is None:
            return self
        nothing = np.empty(0)
        bare = replace(self.evaluation, classes_S=nothing, confidences_S=nothing, fp32_classes_S=nothing)
        return replace(self, evaluation=bare)


def score_reply(response: fleet_pb2.TaskResponse, truth: Truth, task: fleet_pb2.TaskRequest) -> ReplyScore:
    """Computes a node's figures from its artefact's predictions.

    Args:
        response: The node's answer.
        truth: What the predictions are compared with.
        task: The task that it answers.

    Returns:
        The scored answer; only `private_*` figures are the node's own word.

    Raises:
        ExchangeError: Predictions of a wrong length or range.
    """
    seconds = response.seconds
    evaluation = None if task.skips_evaluation else _evaluate(response, truth, task)
    figures = NodeRecord(
        node_id=response.node_id,
        family=task.plan.model,
        bits=task.plan.bits,
        **({} if evaluation is None else evaluation.figures),
        distillation_loss=_known(response.distillation_loss),
        private_loss=_known(response.private_loss),
        num_parameters=response.model.num_parameters,
        fp32_bytes=response.model.fp32_bytes,
        artefact_bytes=response.model.artefact_bytes if evaluation else 0,
        student_digest=response.student_digest,
        artefact_digest=response.artefact_digest if evaluation else "",
        num_steps=response.num_steps,
        latency_seconds_batch1=response.latency_seconds_batch1 or None,
        fp32_latency_seconds_batch1=response.fp32_latency_seconds_batch1 or None,
        state_reset=response.state_reset,
        learned_together=response.learned_together,
        choice=describe_choice(response),
        wire_bytes=response.wire_bytes_down,
        phase_seconds=PhaseSeconds(
            fetch=seconds.fetch, train=seconds.train, export=seconds.export, evaluate=seconds.evaluate
        ),
    )
    predictions = sum(
        part.ByteSize() for part in (response.evaluation, response.evaluation_fp32, response.validation)
    )
    return ReplyScore(
        round=response.round,
        node_id=response.node_id,
        figures=figures,
        evaluation=evaluation,
        task_bytes=_repeatable_bytes(task, "labels"),
        report_bytes=_repeatable_bytes(
            response,
            "evaluation",
            "evaluation_fp32",
            "validation",
            "seconds",
            "wire_bytes_down",
            "host",
            "latency_seconds_batch1",
            "fp32_latency_seconds_batch1",
        ),
        prediction_bytes=predictions,
    )


def _evaluate(response: fleet_pb2.TaskResponse, truth: Truth, task: fleet_pb2.TaskRequest) -> Evaluation:
    num_samples, num_classes = len(truth.evaluation_S), truth.num_classes
    classes, confidences = predictions_from_proto(
        response.evaluation, num_samples=num_samples, num_classes=num_classes
    )
    fp32_classes, _ = predictions_from_proto(
        response.evaluation_fp32, num_samples=num_samples, num_classes=num_classes
    )
    validation, _ = predictions_from_proto(
        response.validation, num_samples=len(truth.validation_S), num_classes=num_classes
    )
    hits_S = validation == truth.validation_S
    teacher = truth.teacher_evaluation_S
    figures = {
        "accuracy": measure_accuracy(classes, truth.evaluation_S),
        "fp32_accuracy": measure_accuracy(fp32_classes, truth.evaluation_S),
        "uncompressed_accuracy": None
        if plan_from_proto(task.plan).changes_training
        else measure_accuracy(fp32_classes, truth.evaluation_S),
        "validation_accuracy": float(np.mean(hits_S)),
        "private_accuracy": _known(response.private_test_accuracy),
        "private_validation_accuracy": _known(response.private_validation_accuracy),
        "agreement_ratio": None if teacher is None else measure_accuracy(classes, teacher),
        "agreement_chance_ratio": None
        if teacher is None
        else chance_agreement(classes, teacher, num_classes=num_classes),
        "ece": calibration_error(classes, confidences, truth.evaluation_S),
        **describe_compression(classes, fp32_classes, truth.evaluation_S, num_classes=num_classes),
    }
    return Evaluation(figures, classes, confidences, fp32_classes, hits_S)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _repeatable_bytes(message: Any, *left_out: str) -> int:
    # Timings, cache hits and addresses change the length of a message from run to
    # run, so bytes are counted without them.
    copy = type(message)()
    copy.CopyFrom(message)
    for name in left_out:
        copy.ClearField(name)
    return int(copy.ByteSize())


def account_traffic(node: NodeState, score: ReplyScore, publication: Publication, *, learned: bool) -> None:
    """Adds what this node alone, on its own device, would have moved for a task.

    Every array counts once per node, whatever a shared cache spared. The node's line
    for `rounds.jsonl` is completed here.

    Args:
        node: The node's account; changed in place.
        score: The accepted answer.
        publication: The arrays that the task referred to.
        learned: The node learned in it, as FedAvg would have for two models moved.
    """
    if score.figures.state_reset:
        node.num_state_resets += 1
    labels, public, evaluation = publication.labels_digest, publication.public_digest, []
    evaluation = [publication.evaluation_digest, publication.validation_digest]
    down = score.task_bytes + _count_once(
        node,
        [
            labels,
            publication.features_digest,
            publication.knowledge_digest,
            publication.encoder_digest,
        ],
        publication,
    )
    samples = _count_once(node, [public], publication)
    predictions = score.prediction_bytes + _count_once(node, evaluation, publication)
    node.bytes_down += down
    sent = score.contribution.num_bytes if score.contribution else 0
    node.bytes_up += score.report_bytes + sent
    node.public_sample_bytes += samples
    node.evaluation_bytes += predictions
    node.wire_bytes += score.figures.wire_bytes
    if learned:
        node.fedavg_bytes += 2 * score.figures.fp32_bytes
    plan, profile = node.plan, node.profile
    node.report = score.figures.model_copy(
        update={
            "bytes_down": down,
            "bytes_up": score.report_bytes + sent,
            "public_sample_bytes": samples,
            "evaluation_bytes": predictions,
            "num_shared_rows": _count_rows(score.contribution),
            "profile": profile.name if profile is not None else None,
            "plan": plan.name if plan is not None else None,
            "plan_reason": plan.reason if plan is not None else None,
            "num_replans": node.num_replans if plan is not None else None,
            "codec": node.codec or None,
            "codec_reason": node.codec_reason if node.codec else None,
        }
    )


def _count_rows(contribution: Contribution | None) -> int | None:
    """Counts what a node shared: public samples, classes that it knows, or its weights as one."""
    if contribution is None:
        return None
    if len(contribution.counts_R) == len(contribution.values):
        return int((contribution.counts_R > 0).sum())
    return int(np.isfinite(contribution.values).all(axis=1).sum())


def _count_once(node: NodeState, digests: list[bytes], publication: Publication) -> int:
    total = 0
    for digest in digests:
        key = digest.hex()
        if digest and key not in node.arrays:
            node.arrays.append(key)
            total += publication.array_bytes[key]
    return total


def accept_answer(
    federation: Federation,
    response: fleet_pb2.TaskResponse,
    task: fleet_pb2.TaskRequest,
    publication: Publication,
    *,
    receive: Receive | None,
) -> ReplyScore:
    """Checks an answer, scores it, and enters it into its node's account.

    Args:
        federation: Its parts; the node's state is changed.
        response: The answer.
        task: What it answers.
        publication: What the task referred to.
        receive: Reads and checks the array that came with it; None where nodes send none.

    Raises:
        ExchangeError: Something in it does not fit.
    """
    node = federation.state.nodes[response.node_id]
    score = score_reply(response, federation.truth, task)
    if receive is not None and federation.wants_upload(response.round):
        score = replace(score, contribution=receive(response))
    node.host = response.host
    fetched = federation.planner.publication_of(node, publication)
    account_traffic(node, score, fetched, learned=federation.learns_in(response.round))
    return score


def announce_reply(score: ReplyScore, node: NodeState) -> NodeReported:
    """Says of an accepted answer what observers want to know; its traffic is accounted for already."""
    figures, report, choice = score.figures, node.report, score.figures.choice
    assert report is not None  # its traffic is accounted for
    return NodeReported(
        round=score.round,
        node_id=score.node_id,
        family=figures.family,
        accuracy=figures.accuracy,
        fp32_accuracy=figures.fp32_accuracy,
        private_accuracy=figures.private_accuracy,
        agreement_ratio=figures.agreement_ratio,
        num_parameters=figures.num_parameters,
        fp32_bytes=figures.fp32_bytes,
        artefact_bytes=figures.artefact_bytes,
        bytes_down=report.bytes_down,
        bytes_up=report.bytes_up,
        public_sample_bytes=report.public_sample_bytes,
        wire_bytes=figures.wire_bytes,
        phase_seconds=figures.phase_seconds.model_dump(),
        distillation_loss=figures.distillation_loss,
        private_loss=figures.private_loss,
        state_reset=figures.state_reset,
        temperature=None if choice is None else choice.temperature,
        distill_lambda=None if choice is None else choice.distill_lambda,
    )
