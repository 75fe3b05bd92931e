"""Nodes that leave are told once, and their series go with them."""

from __future__ import annotations

from flwr.serverapp import Grid

from fedstill.server.fleet.fleet import Fleet
from fedstill.server.grids import LocalGrid
from fedstill.server.metrics import RunMetrics
from fedstill.server.rounds.sampling import announce_departures
from fedstill.server.run.events import Event, NodeLeft, NodeReported


class ShrinkingGrid(LocalGrid):
    """A grid whose nodes can be switched off."""

    off: frozenset[int] = frozenset()

    def get_node_ids(self) -> list[int]:
        return [node_id for node_id in super().get_node_ids() if node_id not in self.off]


def make_fleet(grid: Grid) -> Fleet:
    fleet = Fleet(run_id="run", on_drop=lambda drop: None)
    fleet.roster.flower_ids = {
        f"node-{index:04d}": flower_id for index, flower_id in enumerate(grid.get_node_ids())
    }
    return fleet


def test_a_node_that_leaves_is_told_once_and_again_after_it_was_back() -> None:
    told: list[Event] = []
    with ShrinkingGrid("fedstill.clients.app:app", num_nodes=3, run_config={}) as grid:
        first, second, _ = grid.get_node_ids()
        fleet = make_fleet(grid)
        for off in ((), (second,), (second,), (first, second), (), (second,)):
            grid.off = frozenset(off)
            announce_departures(grid, fleet, observe=told.append)

    assert told == [NodeLeft("node-0001"), NodeLeft("node-0000"), NodeLeft("node-0001")]


def test_the_series_of_a_node_that_left_are_dropped() -> None:
    metrics = RunMetrics(max_node_series=10)
    for node_id in ("node-0000", "node-0001"):
        metrics(
            NodeReported(1, node_id, "mlp", 0.9, 0.9, None, None, 10, 40, 20, 1, 1, 1, 1, phase_seconds={})
        )
    with ShrinkingGrid("fedstill.clients.app:app", num_nodes=2, run_config={}) as grid:
        fleet = make_fleet(grid)
        grid.off = frozenset(grid.get_node_ids()[1:])
        announce_departures(grid, fleet, observe=metrics)

    page = metrics.render_nodes().decode()
    assert 'node_id="node-0000"' in page
    assert 'node_id="node-0001"' not in page
