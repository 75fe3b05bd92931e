"""What a node learns from in one round: fetched, opened, and put before a learner that sees nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from torch import nn

from fedstill.clients.choice import read_choice
from fedstill.clients.cohorts.lockstep import learn_in_step, why_alone
from fedstill.clients.distil import Distillation, SoftLabels
from fedstill.clients.fetching import Fetcher, NodeContext, fetch_labels, fetch_shared
from fedstill.clients.node_store import read_rows
from fedstill.clients.private import encode_private
from fedstill.clients.schemes import LEARNERS, Lesson, Outcome, Rows, get_learner, settle
from fedstill.common.compressors.recovery import Recovery, make_recovery
from fedstill.common.encoders import Encoder
from fedstill.common.errors import ConfigError, ExchangeError
from fedstill.common.losses import get_loss
from fedstill.common.seeding import stream, stream_seed
from fedstill.common.students import StudentDesign, build_student
from fedstill.common.training import Optimisation, deterministic, predict_logits
from fedstill.common.views import Views, open_views
from fedstill.common.wire import input_from_proto, plan_from_proto, settings_from_proto, views_from_proto
from fedstill.protos.fedstill.v1 import fleet_pb2

Result = TypeVar("Result")


@dataclass(frozen=True)
class Material:
    """What a task refers to, as it was fetched."""

    public: np.ndarray | None
    """Public samples, in the schemes that have them."""
    rows: np.ndarray | Views | None
    """The same, or all their views."""
    labels: SoftLabels | None
    shared: Rows | None


@dataclass(frozen=True)
class Study:
    """A lesson, and who works through it how."""

    node: NodeContext
    scheme: str
    torch_seed: int
    lesson: Lesson


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


def fetch_material(fetcher: Fetcher, task: fleet_pb2.TaskRequest, design: StudentDesign) -> Material:
    """Fetches what a task refers to.

    Args:
        fetcher: Knows the node's cache and where the arrays are.
        task: The task.
        design: Its student's.

    Raises:
        ExchangeError: Something could not be fetched, or does not fit together.
    """
    public = fetcher.fetch_public() if task.labels.public_digest else None
    rows = None if public is None else open_views(public, views_from_proto(task.labels.views), design.spec)
    return Material(public, rows, fetch_labels(fetcher, task, rows), fetch_shared(fetcher, task.labels))


def make_lesson(
    node: NodeContext,
    task: fleet_pb2.TaskRequest,
    student: nn.Module,
    material: Material,
    *,
    recovery: Callable[[int], Recovery] | None,
    give_up: Callable[[int], bool],
) -> Lesson:
    """Puts together what a learner sees of one round.

    Args:
        node: Data and store of the node.
        task: The round's task.
        student: Where it begins; changed in place.
        material: What the task refers to.
        recovery: From a number of steps to what compresses the student meanwhile.
        give_up: Told each step; raises when the deadline has passed.
    """
    hyper, settings = task.hyperparameters, settings_from_proto(task.hyperparameters)
    return Lesson(
        student=student,
        train=node.private.train,
        validation=node.private.validation,
        num_classes=len(task.input.class_names),
        public_S=material.rows,
        labels=material.labels,
        shared=material.shared,
        own=read_rows(node.store.round_dir(task.shared_round)) if task.shared_round else None,
        own_weight=task.shared_weight or 1.0,
        distillation=Distillation(
            get_loss(settings.loss), settings.temperature, settings.lambda_, settings.batch_size
        ),
        optimisation=Optimisation.of(settings, node.device),
        num_steps=hyper.num_steps,
        proximal_mu=hyper.proximal_mu,
        wants_upload=task.wants_upload,
        selective_quantile=hyper.selective_quantile,
        revisit_ratio=hyper.revisit_ratio,
        rng=stream(task.seed, "student-batches", node=node.private.node_id, round_number=task.round),
        on_step=give_up,
        recovery=recovery,
        is_adaptive=settings.mode == "auto",
        remembered=read_choice(node.store.round_dir(task.base_round)) if task.base_round else None,
    )


def make_study(node: NodeContext, task: fleet_pb2.TaskRequest, lesson: Lesson) -> Study:
    """Puts a task's lesson before the learner of its scheme."""
    node_id = node.private.node_id
    seed = stream_seed(task.seed, "student-torch", node=node_id, round_number=task.round)
    return Study(node, task.hyperparameters.scheme, seed, lesson)


def learn(study: Study) -> Outcome:
    """Lets a learner work through a lesson, reproducibly; the lesson's student is changed in place."""
    with deterministic(study.torch_seed, num_threads=study.node.config.federation.threads_per_node):
        outcome = get_learner(study.scheme)(study.lesson)
        settle(study.lesson, outcome)
    return outcome


def learn_together(studies: Sequence[Study]) -> list[Outcome | Exception]:
    """Learns many lessons: side by side with others of their scheme those that can, the others alone.

    Which can is a matter of each lesson alone, and so is what comes of it.

    Returns:
        What each ends with, or what it raised.
    """
    ends: dict[int, Outcome | Exception] = {}
    beside: dict[str, list[int]] = {}
    for place, study in enumerate(studies):
        cohort, reason = study.node.config.federation.cohort, why_alone(study.lesson, LEARNERS[study.scheme])
        if not reason and cohort != "off":
            beside.setdefault(study.scheme, []).append(place)
        elif cohort == "require":
            ends[place] = ConfigError(
                "federation.cohort is require, and the student cannot be trained in a batch of students:"
                f" {reason}; set it to auto"
            )
        else:
            ends[place] = attempt(learn, study)
    for scheme, places in beside.items():
        first = studies[places[0]]
        with deterministic(first.torch_seed, num_threads=first.node.config.federation.threads_per_node):
            outcomes = learn_in_step([studies[place].lesson for place in places], LEARNERS[scheme])
        ends.update(zip(places, outcomes, strict=True))
    return [ends[place] for place in range(len(studies))]


def attempt(action: Callable[..., Result], *arguments: Any) -> Result | Exception:
    """Calls a function; what it raises is what comes back."""
    try:
        return action(*arguments)
    except Exception as error:  # noqa: BLE001 - one node's failure is told by that node, and is not the others'
        return error


def weights_seed(task: fleet_pb2.TaskRequest, node_id: str) -> int:
    # Averaging only makes sense from a common beginning; elsewhere each node has its own.
    node = "" if task.hyperparameters.begins_together else node_id
    return stream_seed(task.seed, "student-weights", node=node)


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
