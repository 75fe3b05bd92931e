"""Who works in a round: the nodes that are free, have data, and do not rest."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from flwr.serverapp import Grid

from fedstill.common.config import Config
from fedstill.common.errors import RunError
from fedstill.common.seeding import stream
from fedstill.server.fleet.fleet import Fleet
from fedstill.server.rounds.parts import Federation
from fedstill.server.rounds.resting import choose_rested, count_rested
from fedstill.server.run.events import Event, NodeLeft, Warned
from fedstill.server.run.state import FederationState


@dataclass(frozen=True)
class Sample:
    """The nodes of one round."""

    node_ids: list[str]
    """Sorted; with over-sampling more than are wanted."""
    num_wanted: int
    """What the quorum is a share of."""
    num_rested: dict[str, int]
    """Nodes that rest, by reason."""


def list_free(fleet: Fleet, state: FederationState) -> list[str]:
    """Lists the nodes that are there, have data and a plan that fits them, and owe no answer, sorted."""
    nodes = state.nodes
    return sorted(
        node_id
        for node_id in fleet.roster.flower_ids.keys() - fleet.roster.busy - fleet.roster.departed
        if nodes[node_id].num_train_samples and not nodes[node_id].refusal
    )


def announce_departures(grid: Grid, fleet: Fleet, *, observe: Callable[[Event], None]) -> None:
    """Says once of each node that it is no longer on the grid; one that is back can leave again.

    Args:
        grid: The grid that the nodes are on.
        fleet: Who has introduced itself.
        observe: Told of each that left.
    """
    present = set(grid.get_node_ids())
    absent = {node_id for node_id, flower_id in fleet.roster.flower_ids.items() if flower_id not in present}
    for node_id in sorted(absent - fleet.roster.departed):
        observe(NodeLeft(node_id))
    fleet.roster.departed = absent


def await_fleet(grid: Grid, federation: Federation, *, round_number: int) -> None:
    """Pauses the run while fewer nodes are free than a round needs.

    Args:
        grid: The grid that the nodes are on.
        federation: Who is there; `federation.min_nodes` are needed, one at least, and `wait_seconds`
            bounds the pause. Its observer is told that the run pauses, and who has left.
        round_number: The round that is to begin.

    Raises:
        RunError: Too few came back in time; the run can be resumed.
    """
    fleet, state, config = federation.fleet, federation.state, federation.config
    observe = federation.observe
    announce_departures(grid, fleet, observe=observe)
    needed, wait_seconds = max(1, config.federation.min_nodes), config.federation.wait_seconds
    if (num_free := len(list_free(fleet, state))) >= needed:
        return
    observe(
        Warned(
            f"round {round_number}: {num_free} nodes are free, {needed} are needed; the run pauses for"
            f" {wait_seconds:g} s at most"
        )
    )

    def is_enough() -> bool:
        announce_departures(grid, fleet, observe=observe)
        return len(list_free(fleet, state)) >= needed

    if not fleet.await_answers(grid, wait_seconds=wait_seconds, enough=is_enough):
        raise RunError(
            f"round {round_number}: expected {needed} free nodes, got {len(list_free(fleet, state))} after"
            f" {wait_seconds:g} s; bring nodes back or lower federation.min_nodes, then go on with --resume"
        )


def sample_nodes(fleet: Fleet, state: FederationState, config: Config, *, round_number: int) -> Sample:
    """Draws the nodes of a round, the same for the same state and seed."""
    federation = config.federation
    free = list_free(fleet, state)
    count = max(1, federation.min_nodes, round(federation.sample_fraction * len(fleet.roster.flower_ids)))
    rested = choose_rested(
        state.nodes, free, round_number=round_number, num_needed=max(1, federation.min_nodes)
    )
    able = [node_id for node_id in free if node_id not in rested]
    num_wanted = min(count, len(able))
    count = math.ceil(round(num_wanted * federation.over_sampling, 6))
    if count < len(able):
        rng = stream(config.seed, "sample-nodes", round_number=round_number)
        able = sorted(rng.choice(able, size=count, replace=False).tolist())
    return Sample(able, num_wanted, count_rested(state.nodes, rested))
