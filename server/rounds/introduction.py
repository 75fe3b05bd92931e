"""From a node's name to its place in a run: its state, its device, its plan."""

from __future__ import annotations

from flwr.serverapp import Grid

from fedstill.common.config import FederationConfig
from fedstill.protos.fedstill.v1 import fleet_pb2
from fedstill.server.fleet.fleet import Fleet
from fedstill.server.planner.planner import Planner
from fedstill.server.run.events import NodeJoined, Observer, PhaseAdvanced, Warned
from fedstill.server.run.state import FederationState, NodeState


def introduce_fleet(
    grid: Grid,
    fleet: Fleet,
    state: FederationState,
    planner: Planner,
    *,
    federation: FederationConfig,
    expected: fleet_pb2.InputSpec,
    observe: Observer,
) -> None:
    """Waits until every node of the federation has said its name; see `Fleet.introduce`.

    Args:
        grid: The grid that the nodes are on.
        fleet: Takes their names.
        state: Takes who they are; what it knows of a node already stays.
        planner: Plans for their devices.
        federation: How many have to come, and how long they are waited for.
        expected: What samples look like, for devices that bring data of their own.
        observe: Told of each that comes, and of what lacks.

    Raises:
        RunError: Fewer nodes came in time, one refused, or two share a name.
    """

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
        num_nodes=federation.num_nodes,
        wait_seconds=federation.wait_seconds,
        expected=expected,
        min_nodes=federation.min_nodes,
        on_hello=welcome,
    )
    for node_id in sorted(fleet.roster.flower_ids):
        planner.settle(state.nodes[node_id])
    if (num_here := len(fleet.roster.flower_ids)) < federation.num_nodes:
        observe(
            Warned(
                f"the grid has {num_here} nodes, federation.num_nodes asks for {federation.num_nodes}:"
                " the other partitions stay unused until their nodes come"
            )
        )
