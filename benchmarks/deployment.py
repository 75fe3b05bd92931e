"""A deployment on this machine, every part a process of its own: `python -m benchmarks.deployment`.

A SuperLink with `--nodes` SuperNodes on loopback as the README sets them up: `fedstill certs init`,
`fedstill fleet add`, `fedstill coordinator`, `fedstill-node run --bundle`; then the same in plaintext.
Fashion-MNIST (from FEDSTILL_DATA, or `--source`), each node with samples of its own, no controls. Per
round it prints its seconds, and what they went to in the mean over nodes:

- *train*: the node's own training; everything else is overhead;
- *fetch*: labels and samples, through the label service (mutual TLS), cache and checks included;
- *export* and *evaluate*: the artefact is made, and run over the evaluation set;
- *rest*: Flower. It starts a process for each task, which imports torch (2.7 s of CPU), and messages
  wait until somebody polls.

Seen on two idle cores, 4 nodes, mutual TLS: rounds of 17.8, 14.6 and 13.7 s, of which train 3.0, fetch 0.10,
then 0.01, export 4.7, then 0.1 (the traced graph is kept), evaluate 0.1, rest 9.8, 11.4 and 10.5: four
processes that import torch on two cores are half of that. In plaintext 19.1, 15.7
and 14.2 s: what TLS costs does not show.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fedstill.common.config import DataConfig
from fedstill.common.datasets import load_dataset
from fedstill.common.errors import RunError, UsageError

BIN = Path(sys.executable).parent
NUM_SERVER, NUM_EVALUATION = 4000, 2000
SETTINGS = (
    "data.private=nodes",
    "data.num_server=3000",
    "data.num_public=1000",
    "teacher.num_epochs=8",
    "student.model=cnn-tiny",
    "distill.num_epochs=2",
    "federation.control_fraction=0.0",
    "federation.wait_seconds=180",
    "exchange.collect_artefacts=false",
    "monitoring.enabled=false",
)
PHASES = ("fetch", "train", "export", "evaluate")


def cut_data(source: str, folder: Path, *, num_nodes: int, num_samples: int) -> None:
    """Writes server.npz, and a file for each node with samples that nobody else has."""
    dataset = load_dataset(DataConfig(source=source), seed=0)
    order = np.random.default_rng(0).permutation(len(dataset.y_train))
    x, y = dataset.x_train[order], dataset.y_train[order]
    np.savez(
        folder / "server.npz",
        x_train=x[:NUM_SERVER],
        y_train=y[:NUM_SERVER],
        x_test=dataset.x_test[:NUM_EVALUATION],
        y_test=dataset.y_test[:NUM_EVALUATION],
    )
    for index in range(num_nodes):
        begin = NUM_SERVER + index * num_samples
        part = slice(begin, begin + num_samples)
        np.savez(folder / f"node-{index}.npz", x=x[part], y=y[part])


def call(folder: Path, *words: object) -> None:
    """Runs a command of ours to its end."""
    subprocess.run([str(BIN / "fedstill"), *map(str, words)], cwd=folder, check=True, capture_output=True)


@contextmanager
def started(command: Sequence[object], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Keeps a program running; it is asked to end afterwards."""
    with log.open("wb") as file:
        process = subprocess.Popen([str(word) for word in command], stdout=file, stderr=file, cwd=log.parent)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def deploy(folder: Path, *, num_nodes: int, num_rounds: int, is_secure: bool) -> dict[str, Any]:
    """Runs a federation of real parts and returns its figures.

    Raises:
        RunError: The coordinator failed; its log is shown.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    home = folder / ("secure" if is_secure else "plain")
    home.mkdir()
    names = [f"node-{index}" for index in range(num_nodes)]
    settings = [*SETTINGS, f"data.source={folder / 'server.npz'}"]
    settings += [f"federation.num_nodes={num_nodes}", f"federation.num_rounds={num_rounds}"]
    command: list[object] = [BIN / "fedstill", "coordinator", "--home", home / "site", "--port", port]
    command += [word for setting in settings for word in ("--set", setting)]
    begin = time.monotonic()
    if is_secure:
        call(home, "certs", "init")
        for name in names:
            where = ("--superlink", f"127.0.0.1:{port}", "--data", folder / f"{name}.npz")
            call(home, "fleet", "add", name, *where, "--output", name)
        command += ["--certificates", "certificates"]
    enrol_seconds = time.monotonic() - begin
    with ExitStack() as stack:
        coordinator = stack.enter_context(started(command, home / "coordinator.log"))
        for name in names:
            node: list[object] = [BIN / "fedstill-node", "run", "--home", home / f"home-{name}"]
            node += ["--bundle", home / name] if is_secure else ["--superlink", f"127.0.0.1:{port}"]
            node += [] if is_secure else ["--node-id", name, "--data", folder / f"{name}.npz"]
            stack.enter_context(started(node, home / f"{name}.log"))
        if coordinator.wait():
            raise RunError((home / "coordinator.log").read_text()[-2000:])
    (run_dir,) = (home / "site" / "runs").iterdir()
    return describe(run_dir) | {
        "enrol_seconds": enrol_seconds,
        "wall_seconds": time.monotonic() - begin,
    }


def describe(run_dir: Path) -> dict[str, Any]:
    """Makes figures of a run's log; parts are means over nodes that add up to the round."""
    events = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    rounds = []
    for closed in (event for event in events if event["event"] == "round_closed"):
        reports = [
            event
            for event in events
            if event["event"] == "node_reported" and event["round"] == closed["round"]
        ]
        parts = {
            phase: float(np.mean([report["phase_seconds"][phase] for report in reports])) for phase in PHASES
        }
        parts["rest"] = closed["seconds"] - sum(parts.values())
        rounds.append({"seconds": closed["seconds"], "accuracy": closed["accuracy_mean"]} | parts)
    return {"rounds": rounds, "overhead_seconds": [line["seconds"] - line["train"] for line in rounds]}


def show(name: str, figures: dict[str, Any]) -> str:
    """Puts the figures of one deployment into lines for people."""
    columns = ("seconds", *PHASES, "rest", "accuracy")
    lines = [f"{name:<12}" + "".join(f"{column:>10}" for column in columns)]
    for number, line in enumerate(figures["rounds"], start=1):
        lines.append(f"round {number:<6}" + "".join(f"{line[column]:>10.2f}" for column in columns))
    overhead = float(np.mean(figures["overhead_seconds"]))
    lines.append(
        f"overhead {overhead:.1f} s a round beyond training; enrolment {figures['enrol_seconds']:.1f} s,"
        f" {figures['wall_seconds']:.0f} s in all"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures a deployment of real parts on this machine.")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=500, help="samples of each node")
    parser.add_argument("--source", default="$FEDSTILL_DATA/fashion_mnist")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    if arguments.source.startswith("$FEDSTILL_DATA") and "FEDSTILL_DATA" not in os.environ:
        raise UsageError("FEDSTILL_DATA is not set: set it, or give --source with a folder of IDX files")
    figures = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cut_data(arguments.source, folder, num_nodes=arguments.nodes, num_samples=arguments.samples)
        for title, is_secure in (("mutual TLS", True), ("plaintext", False)):
            figures[title] = deploy(
                folder, num_nodes=arguments.nodes, num_rounds=arguments.rounds, is_secure=is_secure
            )
            if not arguments.json:
                print(show(title, figures[title]), flush=True)
    if arguments.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
