"""After the last round: controls, latencies, artefacts, and leave to forget."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from flwr.serverapp import Grid

from fedstill.common.config import Config
from fedstill.common.seeding import stream
from fedstill.common.wire import predictions_from_proto
from fedstill.protos.fedstill.v1 import fleet_pb2
from fedstill.server.figures.scoring import measure_accuracy
from fedstill.server.planner import plan_training
from fedstill.server.planner.replanning import scale_to_device
from fedstill.server.rounds.strategy import FedDistill
from fedstill.server.run.events import NodeClosed, Observer, PhaseAdvanced, timed_phase
from fedstill.server.run.state import count_rounds, find_uncompressed

# Controls and artefacts are worth waiting for, but not for a node that is gone.
CLOSING_SECONDS = 1800.0
MAX_AT_ONCE = 32
"""Machines that measure and hand in at the same time."""


def close_run(grid: Grid, strategy: FedDistill, observe: Observer) -> None:
    """Trains the controls, then measures latencies and collects artefacts, one node at a time per machine.

    Args:
        grid: The grid that the nodes are on.
        strategy: The federation, its rounds over; its state takes the figures.
        observe: Told of progress.
    """
    nodes = strategy.state.nodes
    finished = [node_id for node_id in _free_nodes(grid, strategy) if nodes[node_id].num_rounds]
    chosen = choose_controls(strategy.config, finished)
    with timed_phase(observe, "controls", len(chosen)):
        _train_controls(grid, strategy, chosen, observe)
    strategy.fleet.open_round(strategy.state.round)
    with timed_phase(observe, "closing", len(finished)):
        done = 0
        for turn in take_turns({node_id: nodes[node_id].host for node_id in finished}):
            _close_nodes(grid, strategy, turn, observe)
            done += len(turn)
            observe(PhaseAdvanced("closing", done))


def _free_nodes(grid: Grid, strategy: FedDistill) -> list[str]:
    """Waits for those who still owe an answer, and lists who can be asked then: the others may be gone."""
    fleet = strategy.fleet
    fleet.await_answers(
        grid,
        wait_seconds=strategy.config.federation.deadline_seconds or CLOSING_SECONDS,
        enough=lambda: not fleet.roster.busy,
    )
    return sorted(fleet.roster.flower_ids.keys() - fleet.roster.busy)


def choose_controls(config: Config, node_ids: list[str]) -> list[str]:
    """Draws the nodes that train controls."""
    count = round(config.federation.control_fraction * len(node_ids))
    rng = stream(config.seed, "choose-controls")
    return sorted(rng.choice(node_ids, size=count, replace=False).tolist()) if count else []


def _train_controls(grid: Grid, strategy: FedDistill, chosen: list[str], observe: Observer) -> None:
    config, state, truth = strategy.config, strategy.state, strategy.truth
    nodes = {node_id: state.nodes[node_id] for node_id in chosen}
    num_rounds = {
        node_id: count_rounds(node) - (not strategy.learns_in(node.base_round))
        for node_id, node in nodes.items()
    }
    requests = {
        node_id: fleet_pb2.ControlRequest(
            run_id=state.run_id,
            labels=strategy.publication.source(),
            plan=strategy.planner.plan(nodes[node_id]),
            hyperparameters=plan_training(config, num_steps=strategy.num_steps * num_rounds[node_id]),
            input=strategy.publication.input(),
            seed=config.seed,
            num_uncompressed_rounds=0
            if find_uncompressed(nodes[node_id]) is not None
            else num_rounds[node_id],
            skips_local=strategy.scheme.is_alone,
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
            closing["local_accuracy"] = score(answer.evaluation)
            closing["local_private_accuracy"] = None if math.isnan(private) else private
        if request.num_uncompressed_rounds:
            closing["uncompressed_accuracy"] = score(answer.uncompressed_evaluation)
        answered.add(node_id)
        observe(PhaseAdvanced("controls", len(answered)))

    strategy.fleet.ask(
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


def _close_nodes(grid: Grid, strategy: FedDistill, node_ids: Sequence[str], observe: Observer) -> None:
    nodes = strategy.state.nodes
    requests = {
        node_id: fleet_pb2.ClosingRequest(
            run_id=strategy.state.run_id,
            base_round=nodes[node_id].base_round,
            labels=strategy.publication.source(),
            collect_artefact=strategy.config.exchange.collect_artefacts,
            accuracy=nodes[node_id].report["accuracy"],
            num_evaluation_samples=len(strategy.truth.evaluation_S),
            uncompressed_accuracy=find_uncompressed(nodes[node_id]),
            upload_nonce=strategy.fleet.nonce,
        )
        for node_id in node_ids
    }

    def keep(node_id: str, answer: fleet_pb2.ClosingResponse) -> None:
        node = nodes[node_id]
        node.closing["latency_seconds_batch1"] = answer.latency_seconds_batch1
        node.device_latency_seconds = scale_to_device(node, answer.latency_seconds_batch1)
        node.closing["artefact_bytes"] = answer.artefact_bytes
        node.closing["upload_bytes"] = answer.upload_bytes
        observe(
            NodeClosed(
                node_id,
                node.closing.get("local_accuracy"),
                node.closing.get("local_private_accuracy"),
                answer.latency_seconds_batch1,
            )
        )

    strategy.fleet.ask(
        grid,
        requests,
        fleet_pb2.ClosingResponse,
        message_type="evaluate",
        round_number=strategy.state.round,
        deadline_seconds=CLOSING_SECONDS,
        on_answer=keep,
    )


def release_nodes(grid: Grid, strategy: FedDistill) -> None:
    """Lets nodes forget what they keep of the run; the run folder has it all."""
    request = fleet_pb2.ReleaseRequest(run_id=strategy.state.run_id)
    strategy.fleet.ask(
        grid,
        dict.fromkeys(sorted(strategy.fleet.roster.flower_ids.keys() - strategy.fleet.roster.busy), request),
        fleet_pb2.ReleaseResponse,
        message_type="query.release",
        round_number=strategy.state.round,
        deadline_seconds=CLOSING_SECONDS,
        on_answer=lambda node_id, answer: None,  # noqa: ARG005
    )
