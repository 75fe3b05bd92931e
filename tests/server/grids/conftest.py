"""Grids of the nodes that do as they are told: one on Ray, one in this process."""

from pathlib import Path

import pytest

from fedstill.server.grids import LocalGrid, RayGrid
from tests.server.grids.orders import NUM_NODES

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def ray_grid():
    with RayGrid(
        "echo_app:app", num_nodes=NUM_NODES, run_config={"seed": 7}, num_actors=2, working_dir=HERE
    ) as grid:
        yield grid


@pytest.fixture
def local_grid(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    with LocalGrid("echo_app:app", num_nodes=NUM_NODES, run_config={"seed": 7}) as grid:
        yield grid
