"""What students are compared with: the same from private data alone, and the same uncompressed."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from fedstill.clients.distil import train_alone
from fedstill.clients.fetching import Fetcher, NodeContext
from fedstill.clients.lessons import (
    design_student,
    fetch_material,
    learn,
    make_deadline,
    make_lesson,
    make_optimisation,
    make_student_recovery,
    weights_seed,
    with_encoder,
)
from fedstill.clients.tasks import measure_private, open_exported
from fedstill.common.compressors import without_compression
from fedstill.common.inference import open_graph, predict_probabilities
from fedstill.common.seeding import stream, stream_seed
from fedstill.common.students import StudentDesign, build_student, export_student
from fedstill.common.training import deterministic
from fedstill.common.wire import predictions_to_proto, settings_from_proto
from fedstill.protos.fedstill.v1 import fleet_pb2


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
    fetcher = Fetcher(node, request.labels)
    node = with_encoder(node, fetcher.fetch_encoder())
    evaluation = fetcher.fetch(request.labels.evaluation_digest)
    design = design_student(request.plan, request.input)
    reply = fleet_pb2.ControlResponse(run_id=request.run_id, node_id=node.private.node_id)
    if not request.skips_local:
        control = _train_local(node, request, design)
        calibration = node.private.train.x_S[: request.plan.num_calibration]
        exported = export_student(control, design, calibration_S=calibration, graphs_dir=node.graphs_dir)
        predict = open_exported(exported.model)
        reply.evaluation.CopyFrom(predictions_to_proto(predict_probabilities(predict, evaluation)))
        reply.private_test_accuracy = measure_private(predict, node.private.test)
    if request.num_uncompressed_rounds:
        design = replace(design, compression=without_compression(design.compression))
        student = _train_uncompressed(node, request, design, fetcher)
        exported = export_student(student, design, calibration_S=evaluation[:1], graphs_dir=node.graphs_dir)
        probabilities = predict_probabilities(open_graph(exported.fp32_model), evaluation)
        reply.uncompressed_evaluation.CopyFrom(predictions_to_proto(probabilities))
    return reply


def _train_local(node: NodeContext, request: fleet_pb2.ControlRequest, design: StudentDesign) -> nn.Module:
    settings, node_id = settings_from_proto(request.hyperparameters), node.private.node_id
    num_steps = request.hyperparameters.num_steps
    control = build_student(design, seed=stream_seed(request.seed, "student-weights", node=node_id))
    torch_seed = stream_seed(request.seed, "control-torch", node=node_id)
    recovery = make_student_recovery(node, design, [])
    with deterministic(torch_seed, num_threads=node.config.federation.threads_per_node):
        train_alone(
            control,
            node.private.train,
            node.private.validation,
            batch_size=settings.batch_size,
            optimisation=make_optimisation(settings, node.device),
            num_steps=num_steps,
            rng=stream(request.seed, "control-batches", node=node_id),
            guest=None if recovery is None else recovery(num_steps),
        )
    return control


def _train_uncompressed(
    node: NodeContext, request: fleet_pb2.ControlRequest, design: StudentDesign, fetcher: Fetcher
) -> nn.Module:
    """Goes through a student's rounds with nothing removed: the same seeds and steps, the last labels."""
    task = fleet_pb2.TaskRequest(
        run_id=request.run_id,
        labels=request.labels,
        hyperparameters=request.hyperparameters,
        seed=request.seed,
        input=request.input,
    )
    task.hyperparameters.num_steps //= request.num_uncompressed_rounds
    material = fetch_material(fetcher, task, design)
    student = build_student(design, seed=weights_seed(task, node.private.node_id))
    for round_number in range(1, request.num_uncompressed_rounds + 1):
        task.round = round_number
        lesson = make_lesson(node, task, student, material, recovery=None, give_up=make_deadline(0))
        student = learn(node, task, lesson).student
    return student
