"""What a node costs that is there, and one that works: `python -m benchmarks.fleet_size [--nodes 1000]`.

Federations of growing size with a hundred nodes sampled in each of three rounds, on LocalGrid and on Ray; a
small table, cut into as many parts as there are nodes. It prints for each size:

- *introduction*: milliseconds per node until all said their names; nodes' own work included, which is
  spread over the actors on Ray;
- *round*: seconds of the last round, whose hundred nodes are the same work at every size;
- *closing*: seconds from the last round to the report;
- *state*: bytes of `checkpoints/state.json` a node, and of memory (RSS of this process) more than at the
  smallest size, a node.

None should grow with the size.

Seen on two cores with little else to do, at 1,000, 10,000 and 100,000 nodes: introduction .77, .56 and .51
ms a node on LocalGrid and 1.19, .52 and .43 on Ray (the start of two actors stands in the first); the last
round 3.3, 3.4 and 4.5 s, and 1.7, 1.9 and 3.2: writing 99 MB of state is what grows, some 13 microseconds
an idle node and round; closing 3.4, 3.6 and 3.9 s, and 4.4, 5.4 and 5.8. State .99 kB and memory 9 kB a
node. Before, when each answer was looked up among all that was owed: 1.15 ms at 20,000 and 2.6 at 100,000
on Ray; on LocalGrid 6,411 of 20,000 came within 60 s.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from fedstill.common.config import load_config
from fedstill.server.run.events import Event, PhaseEnded
from fedstill.server.simulate import simulate

SIZES = (1_000, 10_000, 100_000)
NUM_SAMPLED, NUM_ROUNDS = 100, 3
NUM_SERVER = 2_000
SETTINGS = (
    f"data.num_server={NUM_SERVER}",
    "data.num_public=256",
    "teacher.num_epochs=1",
    "distill.num_epochs=1",
    "federation.partitioner=iid",
    "federation.min_samples_per_node=1",
    "federation.control_fraction=0.0",
    f"federation.num_rounds={NUM_ROUNDS}",
    "federation.wait_seconds=600",
)


class Clock:
    """An observer that keeps the seconds of phases, and memory when all nodes are there."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.rounds: list[float] = []
        self.introduced_bytes = 0

    def __call__(self, event: Event) -> None:
        """Takes one event."""
        if isinstance(event, PhaseEnded):
            self.seconds[event.phase] = self.seconds.get(event.phase, 0.0) + event.seconds
            if event.phase == "round":
                self.rounds.append(event.seconds)
            if event.phase == "nodes":
                self.introduced_bytes = psutil.Process().memory_info().rss


def write_table(path: Path, *, num_samples: int) -> None:
    """Writes a table of eight columns and four classes."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, num_samples)
    x = (rng.normal(size=(num_samples, 8)) + y[:, None] * np.linspace(-1, 1, 8)).astype(np.float32)
    np.savez(path, x_train=x, y_train=y, x_test=x[:500], y_test=y[:500])


def run_once(folder: Path, *, num_nodes: int, grid: str) -> dict[str, Any]:
    """Runs one federation and returns its figures."""
    folder.mkdir()
    write_table(folder / "table.npz", num_samples=NUM_SERVER + 256 + 2 * num_nodes)
    settings = [*SETTINGS, f"data.source={folder / 'table.npz'}", f"federation.num_nodes={num_nodes}"]
    settings.append(f"federation.sample_fraction={min(1.0, NUM_SAMPLED / num_nodes):g}")
    clock = Clock()
    simulate(load_config(overrides=settings), run_dir=folder / "run", observers=[clock], grid_name=grid)
    return {
        "grid": grid,
        "num_nodes": num_nodes,
        "introduction_milliseconds_per_node": 1e3 * clock.seconds["nodes"] / num_nodes,
        "last_round_seconds": clock.rounds[-1],
        "closing_seconds": clock.seconds["closing"],
        "state_bytes_per_node": (folder / "run/checkpoints/state.json").stat().st_size / num_nodes,
        "introduced_bytes": clock.introduced_bytes,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs all sizes on both grids and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", default=",".join(map(str, SIZES)), help="sizes, with commas")
    parser.add_argument("--grids", default="local,ray", help="grids, with commas")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        for grid in given.grids.split(","):
            for num_nodes in map(int, given.nodes.split(",")):
                folder = Path(name) / f"{grid}-{num_nodes}"
                print(json.dumps(run_once(folder, num_nodes=num_nodes, grid=grid)), flush=True)


if __name__ == "__main__":
    main()
