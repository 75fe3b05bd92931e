"""How long a round takes on RayGrid, beside bare Ray actors and Flower's simulation.

    python -m benchmarks.grid [--nodes 10,100,1000] [--rounds 9] [--json]

A round sends each node 10 KB and gets 10 KB back. Every side has one actor per
CPU and is warmed up; figures are medians of rounds of one run on one machine:
- *RayGrid*: `send_and_receive` on a grid that lives on;
- *bare Ray*: `ray.get` on one call per node, to actors that return the bytes; no
  Flower message is made, parsed or routed. Takes turns with RayGrid, and the ratio
  is the median over pairs of rounds;
- *Flower*: `grid.send_and_receive` inside a ServerApp under `run_simulation`.

Expected: RayGrid at most 3 times bare Ray, and at most 1/15 of Flower at 1,000 nodes,
whose scan of its messages grows with their square. It makes and parses four Flower
messages per node, about 0.2 ms of CPU where a bare call takes as much in all. Sent one
by one, each message also waited for two hops, 3 times bare Ray on idle cores and up to
8 on busy ones; hence the batches.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import statistics
import time
import warnings

import ray
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from fedstill.server.grids import RayGrid

NUM_BYTES = 10_000
NUM_WARM_UPS = 2
MAX_FLOWER_ROUNDS = 3
app = ClientApp()


@app.train()
def echo(message: Message, _: Context) -> Message:
    return Message(message.content, reply_to=message)


def make_messages(node_ids: list[int]) -> list[Message]:
    data = random.Random(0).randbytes(NUM_BYTES)
    content = RecordDict({"x": ArrayRecord({"x": Array("uint8", (NUM_BYTES,), "echo", data)})})
    return [Message(content, node_id, "train") for node_id in node_ids]


def exchange(grid: Grid, node_ids: list[int]) -> float:
    """Seconds of one round."""
    begin = time.perf_counter()
    replies = list(grid.send_and_receive(make_messages(node_ids)))
    seconds = time.perf_counter() - begin
    assert len(replies) == len(node_ids)
    assert all(reply.has_content() for reply in replies)
    return seconds


class Echo:
    def echo(self, data: bytes) -> bytes:
        return data


def measure_ray(num_nodes: int, num_rounds: int) -> dict[str, float]:
    """RayGrid and bare Ray in turns, so that both meet the same machine."""
    with RayGrid("benchmarks.grid:app", num_nodes=num_nodes, run_config={}) as grid:
        num_actors = min(num_nodes, int(ray.cluster_resources()["CPU"]))
        actors = [ray.remote(Echo).options(num_cpus=0).remote() for _ in range(num_actors)]
        data = random.Random(0).randbytes(NUM_BYTES)
        grid_seconds, bare_seconds = [], []
        for _ in range(num_rounds + NUM_WARM_UPS):
            grid_seconds.append(exchange(grid, grid.get_node_ids()))
            begin = time.perf_counter()
            ray.get([actors[node % num_actors].echo.remote(data) for node in range(num_nodes)])
            bare_seconds.append(time.perf_counter() - begin)
    grid_seconds, bare_seconds = grid_seconds[NUM_WARM_UPS:], bare_seconds[NUM_WARM_UPS:]
    ratios = [ours / theirs for ours, theirs in zip(grid_seconds, bare_seconds, strict=True)]
    return {
        "num_nodes": num_nodes,
        "ray_grid_seconds": statistics.median(grid_seconds),
        "bare_ray_seconds": statistics.median(bare_seconds),
        "to_bare_ray_ratio": statistics.median(ratios),
    }


def measure_flower(num_nodes: int, num_rounds: int) -> float:
    server_app = ServerApp()
    seconds: list[float] = []

    @server_app.main()
    def main(grid: Grid, _: Context) -> None:
        while len(node_ids := list(grid.get_node_ids())) < num_nodes:
            time.sleep(0.05)
        seconds.extend(exchange(grid, node_ids) for _ in range(num_rounds + 1))

    run_simulation(
        server_app,
        app,
        num_supernodes=num_nodes,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"include_dashboard": False, "log_to_driver": False, "logging_level": "CRITICAL"},
        },
    )
    return statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Times a round on RayGrid, bare Ray and Flower's simulation."
    )
    parser.add_argument("--nodes", default="10,100,1000", help="counts of nodes, with commas")
    parser.add_argument(
        "--rounds", type=int, default=9, help=f"rounds per median; Flower runs {MAX_FLOWER_ROUNDS} at most"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    warnings.filterwarnings("ignore")
    logging.getLogger("flwr").setLevel(logging.ERROR)

    counts = [int(count) for count in arguments.nodes.split(",")]
    rows = [measure_ray(count, arguments.rounds) for count in counts]
    for row, count in zip(rows, counts, strict=True):
        row["flower_seconds"] = measure_flower(count, min(arguments.rounds, MAX_FLOWER_ROUNDS))
        row["to_flower_ratio"] = row["ray_grid_seconds"] / row["flower_seconds"]
    if arguments.json:
        print(json.dumps({"num_cpus": os.cpu_count(), "message_bytes": NUM_BYTES, "rounds": rows}))
        return
    print(f"{'nodes':>6}{'RayGrid s':>12}{'bare Ray s':>12}{'Flower s':>12}{'to bare':>10}{'to Flower':>12}")
    for row in rows:
        print(
            f"{row['num_nodes']:>6}{row['ray_grid_seconds']:>12.4f}{row['bare_ray_seconds']:>12.4f}"
            f"{row['flower_seconds']:>12.4f}{row['to_bare_ray_ratio']:>10.2f}"
            f"{'1/' + format(1 / row['to_flower_ratio'], '.0f'):>12}"
        )


if __name__ == "__main__":
    main()
