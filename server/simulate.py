"""Launches a federation of virtual nodes: here, or on a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from flwr.app import Context, RecordDict

from fedstill.common.config import Config, flatten
from fedstill.common.datasets import absolute_source
from fedstill.common.errors import UsageError
from fedstill.server.grids import ActorNeeds, LocalGrid, RayGrid
from fedstill.server.run.events import Observer
from fedstill.server.run.summary import Summary, read_summary

CLIENT_APP = "fedstill.clients.app:app"


def simulate(
    config: Config,
    *,
    run_dir: Path,
    run_id: str = "",
    resume: bool = False,
    grid_name: str = "ray",
    ray_address: str | None = None,
    observers: Sequence[Observer] = (),
) -> Summary:
    """Runs a federation of virtual nodes.

    Args:
        config: The run's configuration.
        run_dir: Folder that the run fills or goes on in.
        run_id: Name of a new run; empty makes one up.
        resume: Go on from the last committed round.
        grid_name: "ray" for persistent Ray actors, "local" for this process alone.
        ray_address: An existing Ray cluster; None starts one here and ends it.
        observers: Told of everything that happens.

    Returns:
        The run's summary.

    Raises:
        UsageError: Configuration, data or folder are wrong.
        RunError: The federation could not go on.
    """
    from fedstill.server.app import make_app

    run_config = flatten(config) | {
        "run.dir": str(run_dir),
        "run.id": run_id,
        "run.resume": resume,
        "data.source": absolute_source(config.data.source),
    }
    with _open_grid(config, grid_name, ray_address, run_config) as grid:
        context = Context(
            run_id=grid.run.run_id, node_id=0, node_config={}, state=RecordDict(), run_config=run_config
        )
        make_app(observers)(grid, context)
    return read_summary(run_dir)


def _open_grid(
    config: Config, grid_name: str, ray_address: str | None, run_config: dict[str, bool | int | float | str]
) -> AbstractContextManager[LocalGrid | RayGrid]:
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    federation = config.federation
    if grid_name == "local":
        return LocalGrid(CLIENT_APP, num_nodes=federation.num_nodes, run_config=run_config)
    if grid_name != "ray":
        raise UsageError(f"expected a grid of ray or local, got {grid_name!r}")
    if federation.device == "cuda" and not federation.gpus_per_node:
        raise UsageError(
            "federation.device is cuda: say how much of a GPU a node takes, federation.gpus_per_node"
        )
    return RayGrid(
        CLIENT_APP,
        num_nodes=federation.num_nodes,
        run_config=run_config,
        num_actors=federation.num_actors,
        ray_address=ray_address,
        needs=ActorNeeds(
            federation.cpus_per_node,
            federation.gpus_per_node,
            federation.memory_bytes_per_node,
            tuple(name.strip() for name in federation.node_resources.split(",") if name.strip()),
        ),
    )
