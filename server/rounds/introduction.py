"""From a node's name to its place in a run: its state, its device, its plan."""

from __future__ import annotations

from flwr.serverapp import Grid

from fedstill.protos.fedstill.v1 import fleet_pb2
from fedstill.server.rounds.parts import Federation
from fedstill.server.run.events import NodeJoined, PhaseAdvanced, Warned
from fedstill.server.run.state import NodeState


def introduce_fleet(grid: Grid, federation: Federation) -> None:
    """Waits until every node of the federation has said its name, and gives each its place and its plan.

    Args:
        grid: The grid that the nodes are on.
        federation: Takes names and state; what it knows of a node already stays.

    Raises:
        RunError: Fewer nodes came in time than did not refuse, all refused, or two share a name.
    """
    fleet, state, planner = federation.fleet, federation.state, federation.planner
    observe, settings = federation.observe, federation.config.federation

    def welcome(hello: fleet_pb2.HelloResponse, is_back: bool) -> None:
        if not hello.num_train_samples:
            observe(Warned(f"{hello.node_id} has no data and is skipped"))
        node = state.nodes.setdefault(
            hello.node_id,
            NodeState(
                node_id=hello.node_id,
                num_train_samples=hello.num_train_samples,
                num_private_test=hello.num_test_samples,
            ),
        )
        planner.welcome(hello, node)
        if fleet.roster.is_introduced or is_back:
            observe(NodeJoined(hello.node_id, is_back=is_back))
        if fleet.roster.is_introduced:
            planner.settle(node)
        else:
            observe(PhaseAdvanced("nodes", len(fleet.roster.flower_ids)))

    fleet.introduce(
        grid,
        num_nodes=settings.num_nodes,
        wait_seconds=settings.wait_seconds,
        expected=federation.publication.input(),
        min_nodes=settings.min_nodes,
        on_hello=welcome,
    )
    for node_id in sorted(fleet.roster.flower_ids):
        planner.settle(state.nodes[node_id])
    if (num_here := len(fleet.roster.flower_ids)) < settings.num_nodes:
        observe(
            Warned(
                f"the grid has {num_here} nodes, federation.num_nodes asks for {settings.num_nodes}:"
                " the other partitions stay unused until their nodes come"
            )
        )
