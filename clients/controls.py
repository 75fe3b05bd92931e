"""What students are compared with: the same from private data alone, and the same uncompressed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from fedstill.clients.distil import Distillation
from fedstill.clients.fetching import Fetcher, NodeContext
from fedstill.clients.lessons import (
    Material,
    Study,
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
from fedstill.clients.schemes import Lesson, Outcome
from fedstill.clients.tasks import measure_private, open_exported
from fedstill.common.compressors import without_compression
from fedstill.common.inference import open_graph, predict_probabilities
from fedstill.common.losses import get_loss
from fedstill.common.seeding import stream, stream_seed
from fedstill.common.students import StudentDesign, build_student, export_student
from fedstill.common.training import Optimisation
from fedstill.common.wire import predictions_to_proto, settings_from_proto
from fedstill.protos.fedstill.v1 import fleet_pb2

Job = tuple[NodeContext, fleet_pb2.ControlRequest]
Answer = fleet_pb2.ControlResponse | Exception
LearnAll = Callable[[Sequence[Study]], list[Outcome | Exception]]


@dataclass(frozen=True)
class _Control:
    """A request with everything at hand."""

    node: NodeContext
    request: fleet_pb2.ControlRequest
    design: StudentDesign
    evaluation_S: np.ndarray
    local: Study | None
    """From private data alone; None where it is not wanted."""
    uncompressed: nn.Module | None
    """Where the student that is never compressed begins; None where it is not wanted."""
    material: Material | None


def train_control(node: NodeContext, request: fleet_pb2.ControlRequest) -> fleet_pb2.ControlResponse:
    """Trains what a student is compared with: from private data alone, and without compression.

    Args:
        node: Data and cache of the node.
        request: The coordinator's request.

    Returns:
        The local control's predictions and private accuracy, compressed like the student; and
        the uncompressed control's predictions, distilled like the student for as many steps.

    Raises:
        ExchangeError: A set could not be fetched.
    """
    (answer,) = train_controls([(node, request)], learn_all=_learn_each)
    if isinstance(answer, Exception):
        raise answer
    return answer


def _learn_each(studies: Sequence[Study]) -> list[Outcome | Exception]:
    return [attempt(learn, study) for study in studies]


def train_controls(jobs: Sequence[Job], *, learn_all: LearnAll = learn_together) -> list[Answer]:
    """Trains the controls of many nodes side by side.

    Args:
        jobs: Nodes and their requests.
        learn_all: Lets all students learn.

    Returns:
        Each node's answer, as `train_control` gives it, or what kept it from one.
    """
    begun = [attempt(_begin, node, request) for node, request in jobs]
    ready = [one for one in begun if isinstance(one, _Control)]
    studies = {place: one.local for place, one in enumerate(ready) if one.local is not None}
    local = dict(zip(studies, learn_all(list(studies.values())), strict=True))
    uncompressed = _go_through_rounds(ready, learn_all)
    answers = iter(
        [attempt(_finish, one, local.get(place), uncompressed.get(place)) for place, one in enumerate(ready)]
    )
    return [next(answers) if isinstance(one, _Control) else one for one in begun]


def _begin(node: NodeContext, request: fleet_pb2.ControlRequest) -> _Control:
    fetcher = Fetcher(node, request.labels)
    node = with_encoder(node, fetcher.fetch_encoder())
    evaluation = fetcher.fetch(request.labels.evaluation_digest)
    design = design_student(request.plan, request.input)
    local = None if request.skips_local else _local_study(node, request, design)
    if not request.num_uncompressed_rounds:
        return _Control(node, request, design, evaluation, local, None, None)
    task = _round_task(request, 0)
    plain = replace(design, compression=without_compression(design.compression))
    student = build_student(plain, seed=weights_seed(task, node.private.node_id))
    return _Control(node, request, design, evaluation, local, student, fetch_material(fetcher, task, plain))


def _local_study(node: NodeContext, request: fleet_pb2.ControlRequest, design: StudentDesign) -> Study:
    settings, node_id = settings_from_proto(request.hyperparameters), node.private.node_id
    lesson = Lesson(
        student=build_student(design, seed=stream_seed(request.seed, "student-weights", node=node_id)),
        train=node.private.train,
        validation=node.private.validation,
        num_classes=len(design.class_names),
        public_S=None,
        labels=None,
        shared=None,
        own=None,
        own_weight=1.0,
        distillation=Distillation(
            get_loss(settings.loss), settings.temperature, settings.lambda_, settings.batch_size
        ),
        optimisation=Optimisation.of(settings, node.device),
        num_steps=request.hyperparameters.num_steps,
        proximal_mu=0.0,
        wants_upload=False,
        selective_quantile=0.0,
        revisit_ratio=0.0,
        rng=stream(request.seed, "control-batches", node=node_id),
        on_step=make_deadline(0),
        recovery=make_student_recovery(node, design, []),
    )
    return Study(node, "local", stream_seed(request.seed, "control-torch", node=node_id), lesson)


def _go_through_rounds(controls: Sequence[_Control], learn_all: LearnAll) -> dict[int, nn.Module | Exception]:
    """Goes through students' rounds with nothing removed: the same seeds and steps, the last labels."""
    students: dict[int, nn.Module | Exception] = {
        place: one.uncompressed for place, one in enumerate(controls) if one.uncompressed is not None
    }
    for round_number in range(
        1, 1 + max((one.request.num_uncompressed_rounds for one in controls), default=0)
    ):
        studies = {
            place: _round_study(controls[place], student, round_number)
            for place, student in students.items()
            if isinstance(student, nn.Module)
            and round_number <= controls[place].request.num_uncompressed_rounds
        }
        ends = learn_all(list(studies.values()))
        for place, end in zip(studies, ends, strict=True):
            students[place] = end if isinstance(end, Exception) else end.student
    return students


def _round_study(control: _Control, student: nn.Module, round_number: int) -> Study:
    assert control.material is not None
    task = _round_task(control.request, round_number)
    lesson = make_lesson(
        control.node, task, student, control.material, recovery=None, give_up=make_deadline(0)
    )
    return make_study(control.node, task, lesson)


def _round_task(request: fleet_pb2.ControlRequest, round_number: int) -> fleet_pb2.TaskRequest:
    task = fleet_pb2.TaskRequest(
        run_id=request.run_id,
        round=round_number,
        labels=request.labels,
        hyperparameters=request.hyperparameters,
        seed=request.seed,
        input=request.input,
    )
    task.hyperparameters.num_steps //= request.num_uncompressed_rounds
    return task


def _finish(
    control: _Control, local: Outcome | Exception | None, uncompressed: nn.Module | Exception | None
) -> fleet_pb2.ControlResponse:
    node, request, evaluation_S = control.node, control.request, control.evaluation_S
    for end in (local, uncompressed):
        if isinstance(end, Exception):
            raise end
    reply = fleet_pb2.ControlResponse(run_id=request.run_id, node_id=node.private.node_id)
    if isinstance(local, Outcome):
        calibration = node.private.train.x_S[: request.plan.num_calibration]
        exported = export_student(
            local.student, control.design, calibration_S=calibration, graphs_dir=node.graphs_dir
        )
        predict = open_exported(exported.model)
        reply.evaluation.CopyFrom(predictions_to_proto(predict_probabilities(predict, evaluation_S)))
        reply.private_test_accuracy = measure_private(predict, node.private.test)
    if isinstance(uncompressed, nn.Module):
        plain = replace(control.design, compression=without_compression(control.design.compression))
        exported = export_student(
            uncompressed, plain, calibration_S=evaluation_S[:1], graphs_dir=node.graphs_dir
        )
        probabilities = predict_probabilities(open_graph(exported.fp32_model), evaluation_S)
        reply.uncompressed_evaluation.CopyFrom(predictions_to_proto(probabilities))
    return reply
