"""After the last round: controls, latencies, artefacts, and leave to forget."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from flwr.serverapp import Grid

from fedstill.common.config import Config
from fedstill.common.seeding import stream
from fedstill.common.wire import predictions_from_proto
from fedstill.protos.fedstill.v1 import fleet_pb2
from fedstill.server.figures.scoring import measure_accuracy, write_predictions
from fedstill.server.planner.replanning import scale_to_device
from fedstill.server.rounds.answers import score_reply
from fedstill.server.rounds.parts import Federation
from fedstill.server.rounds.predictions import PREDICTIONS_FILE
from fedstill.server.run.events import NodeClosed, PhaseAdvanced, timed_phase
from fedstill.server.run.state import NodeState, count_rounds, find_uncompressed

# Controls and artefacts are worth waiting for, but not for a node that is gone.
CLOSING_SECONDS = 1800.0
MAX_AT_ONCE = 32
"""Machines that measure and hand in at the same time."""


def close_run(grid: Grid, federation: Federation, *, run_dir: Path) -> None:
    """Trains the controls, then measures latencies and collects artefacts, one node at a time per machine.

    Args:
        grid: The grid that the nodes are on.
        federation: Its rounds are over; its state takes the figures.
        run_dir: The run folder, which takes predictions.
    """
    nodes = federation.state.nodes
    finished = [node_id for node_id in _free_nodes(grid, federation) if nodes[node_id].num_rounds]
    _evaluate_left(grid, federation, finished, run_dir=run_dir)
    chosen = choose_controls(federation.config, finished)
    with timed_phase(federation.observe, "controls", len(chosen)):
        _train_controls(grid, federation, chosen)
    federation.fleet.open_round(federation.state.round)
    with timed_phase(federation.observe, "closing", len(finished)):
        done = 0
        for turn in take_turns({node_id: nodes[node_id].host for node_id in finished}):
            _close_nodes(grid, federation, turn)
            done += len(turn)
            federation.observe(PhaseAdvanced("closing", done))


def _evaluate_left(grid: Grid, federation: Federation, node_ids: Sequence[str], *, run_dir: Path) -> None:
    """Has nodes evaluate students that a round left without an artefact: those who were not in the last."""
    nodes, truth = federation.state.nodes, federation.truth
    tasks = {}
    for node_id in node_ids:
        node = nodes[node_id]
        if node.report is not None and node.report.accuracy is None:
            tasks[node_id] = federation.write_task(node, node.base_round, deadline_seconds=0.0)
            tasks[node_id].skips_evaluation = tasks[node_id].wants_upload = False
            tasks[node_id].starts_anew = False

    def keep(node_id: str, answer: fleet_pb2.TaskResponse) -> None:
        node, score = nodes[node_id], score_reply(answer, truth, tasks[node_id])
        found, report = score.evaluation, node.report
        assert found is not None
        assert report is not None
        path = run_dir / "nodes" / node_id / PREDICTIONS_FILE
        write_predictions(path, found.classes_S, found.confidences_S, found.fp32_classes_S)
        node.evaluation_bytes += score.prediction_bytes
        of_artefact = score.figures.model_dump(include={"artefact_bytes", "artefact_digest"})
        node.report = report.model_copy(update=found.figures | of_artefact)

    federation.fleet.ask(
        grid,
        tasks,
        fleet_pb2.TaskResponse,
        message_type="train.evaluate",
        round_number=federation.state.round,
        deadline_seconds=CLOSING_SECONDS,
        on_answer=keep,
    )


def _free_nodes(grid: Grid, federation: Federation) -> list[str]:
    """Waits for those who still owe an answer, and lists who can be asked then: the others may be gone."""
    fleet = federation.fleet
    fleet.await_answers(
        grid,
        wait_seconds=federation.config.federation.deadline_seconds or CLOSING_SECONDS,
        enough=lambda: not fleet.roster.busy,
    )
    return sorted(fleet.roster.flower_ids.keys() - fleet.roster.busy)


def choose_controls(config: Config, node_ids: list[str]) -> list[str]:
    """Draws the nodes that train controls."""
    count = round(config.federation.control_fraction * len(node_ids))
    rng = stream(config.seed, "choose-controls")
    return sorted(rng.choice(node_ids, size=count, replace=False).tolist()) if count else []


def _train_controls(grid: Grid, federation: Federation, chosen: list[str]) -> None:
    config, state, truth = federation.config, federation.state, federation.truth
    nodes = {node_id: state.nodes[node_id] for node_id in chosen}
    num_rounds = {
        node_id: count_rounds(node) - (not federation.learns_in(node.base_round))
        for node_id, node in nodes.items()
    }
    requests = {
        node_id: fleet_pb2.ControlRequest(
            run_id=state.run_id,
            labels=federation.publication.source(),
            plan=federation.planner.plan(nodes[node_id]),
            hyperparameters=federation.describe_training(nodes[node_id], num_rounds=num_rounds[node_id]),
            input=federation.publication.input(),
            seed=config.seed,
            num_uncompressed_rounds=0
            if find_uncompressed(nodes[node_id]) is not None
            else num_rounds[node_id],
            skips_local=federation.scheme.is_alone,
        )
        for node_id in chosen
    }
    # Students of the scheme `local` are their own local control.
    requests = {
        node_id: request
        for node_id, request in requests.items()
        if request.num_uncompressed_rounds or not request.skips_local
    }
    answered: set[str] = set()

    def score(predictions: fleet_pb2.Predictions) -> float:
        classes, _ = predictions_from_proto(
            predictions, num_samples=len(truth.evaluation_S), num_classes=truth.num_classes
        )
        return measure_accuracy(classes, truth.evaluation_S)

    def keep(node_id: str, answer: fleet_pb2.ControlResponse) -> None:
        closing, request = state.nodes[node_id].closing, requests[node_id]
        if not request.skips_local:
            private = answer.private_test_accuracy
            closing.local_accuracy = score(answer.evaluation)
            closing.local_private_accuracy = None if math.isnan(private) else private
        if request.num_uncompressed_rounds:
            closing.uncompressed_accuracy = score(answer.uncompressed_evaluation)
        answered.add(node_id)
        federation.observe(PhaseAdvanced("controls", len(answered)))

    federation.fleet.ask(
        grid,
        requests,
        fleet_pb2.ControlResponse,
        message_type="train.control",
        round_number=state.round,
        deadline_seconds=CLOSING_SECONDS,
        on_answer=keep,
    )


def take_turns(hosts: Mapping[str, str]) -> list[list[str]]:
    """Groups nodes so that no machine has two at work: nothing else may disturb a latency.

    Args:
        hosts: Name of each node's machine.

    Returns:
        Nodes that are closed at the same time, sorted, `MAX_AT_ONCE` at most.
    """
    seen: Counter[str] = Counter()
    turns: dict[int, list[str]] = {}
    for node_id, host in sorted(hosts.items()):
        turns.setdefault(seen[host], []).append(node_id)
        seen[host] += 1
    return [
        turn[begin : begin + MAX_AT_ONCE]
        for _, turn in sorted(turns.items())
        for begin in range(0, len(turn), MAX_AT_ONCE)
    ]


def _close_nodes(grid: Grid, federation: Federation, node_ids: Sequence[str]) -> None:
    nodes = federation.state.nodes
    requests = {
        node_id: fleet_pb2.ClosingRequest(
            run_id=federation.state.run_id,
            base_round=nodes[node_id].base_round,
            labels=federation.publication.source(),
            collect_artefact=federation.config.exchange.collect_artefacts,
            accuracy=_last_accuracy(nodes[node_id]),
            num_evaluation_samples=len(federation.truth.evaluation_S),
            uncompressed_accuracy=find_uncompressed(nodes[node_id]),
            upload_nonce=federation.fleet.nonce,
        )
        for node_id in node_ids
    }

    def keep(node_id: str, answer: fleet_pb2.ClosingResponse) -> None:
        node = nodes[node_id]
        node.closing.latency_seconds_batch1 = answer.latency_seconds_batch1
        node.device_latency_seconds = scale_to_device(node, answer.latency_seconds_batch1)
        node.closing.artefact_bytes = answer.artefact_bytes
        node.closing.upload_bytes = answer.upload_bytes
        federation.observe(
            NodeClosed(
                node_id,
                node.closing.local_accuracy,
                node.closing.local_private_accuracy,
                answer.latency_seconds_batch1,
            )
        )

    federation.fleet.ask(
        grid,
        requests,
        fleet_pb2.ClosingResponse,
        message_type="evaluate",
        round_number=federation.state.round,
        deadline_seconds=CLOSING_SECONDS,
        on_answer=keep,
    )


def _last_accuracy(node: NodeState) -> float:
    assert node.report is not None  # only nodes with a round are closed
    return math.nan if node.report.accuracy is None else node.report.accuracy


def release_nodes(grid: Grid, federation: Federation) -> None:
    """Lets nodes forget what they keep of the run, if they ever got a task; the run folder has it all."""
    request = fleet_pb2.ReleaseRequest(run_id=federation.state.run_id)
    roster, nodes = federation.fleet.roster, federation.state.nodes
    tasked = {name for name in roster.flower_ids if name not in nodes or _got_a_task(nodes[name])}
    federation.fleet.ask(
        grid,
        dict.fromkeys(sorted(tasked - roster.busy), request),
        fleet_pb2.ReleaseResponse,
        message_type="query.release",
        round_number=federation.state.round,
        deadline_seconds=CLOSING_SECONDS,
        on_answer=lambda node_id, answer: None,  # noqa: ARG005
    )


def _got_a_task(node: NodeState) -> bool:
    return bool(node.num_rounds or node.num_failures or node.num_rests)
