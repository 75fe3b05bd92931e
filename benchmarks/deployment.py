"""A deployment on this machine, every part a process of its own: `python -m benchmarks.deployment`.

A SuperLink with `--nodes` SuperNodes on loopback as the README sets them up: `fedstill certs init`,
`fedstill fleet add`, `fedstill coordinator`, `fedstill-node run --bundle`; then the same in plaintext.
Fashion-MNIST (from FEDSTILL_DATA, or `--source`), each node with samples of its own, no controls. Per
round it prints its seconds, and what they went to in the mean over nodes:

- *train*: the node's own training; everything else is overhead;
- *fetch*: labels and samples, through the label service (mutual TLS), cache and checks included;
- *export* and *evaluate*: the artefact is made, and run over the evaluation set;
- *process*: Flower starts a process for each task, which imports torch; its life less the task's work;
- *Flower*: the rest of the round: messages that wait until somebody polls.

*cpu* is the CPU time of a task's process, as last seen, which a busy machine changes less.

No figure of a quiet machine is known yet. At load 12 on two cores (4 nodes, mutual TLS) a fetch took
0.26 s in the first round and 0.05 s in the second, the export 16.8 s and 0.4 s, since the traced graph
is kept then.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from common.config import DataConfig
from common.datasets import load_dataset
from common.errors import RunError, UsageError

BIN = Path(sys.executable).parent
LOOK_SECONDS = 0.2
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


class Lives:
    """Notes when processes that carry out tasks begin and end, from a thread of its own.

    Args:
        pids: Process id of each node's program, by node.
    """

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids
        self._spans: dict[tuple[str, int], list[float]] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Lives:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            for name, pid in self._pids.items():
                with contextlib.suppress(psutil.Error):
                    self._look(name, psutil.Process(pid).children(recursive=True))

    def _look(self, name: str, children: list[psutil.Process]) -> None:
        tasks = [child for child in children if any("flwr-clientapp" in word for word in child.cmdline()[:3])]
        pids = {task.pid for task in tasks}
        for task in tasks:
            if task.ppid() in pids:
                continue  # a fork of it
            times = task.cpu_times()
            span = self._spans.setdefault((name, task.pid), [task.create_time(), 0.0, 0.0])
            span[1:] = time.time(), times.user + times.system

    def between(self, name: str, begin: float, end: float) -> tuple[float, float]:
        """Adds up lives and CPU times of a node's processes that began in a span, seconds."""
        spans = [span for (node, _), span in self._spans.items() if node == name]
        spans = [span for span in spans if begin <= span[0] < end]
        return sum(span[1] - span[0] for span in spans), sum(span[2] for span in spans)


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
        pids = {}
        for name in names:
            node: list[object] = [BIN / "fedstill-node", "run", "--home", home / f"home-{name}"]
            node += ["--bundle", home / name] if is_secure else ["--superlink", f"127.0.0.1:{port}"]
            node += [] if is_secure else ["--node-id", name, "--data", folder / f"{name}.npz"]
            pids[name] = stack.enter_context(started(node, home / f"{name}.log")).pid
        lives = stack.enter_context(Lives(pids))
        if coordinator.wait():
            raise RunError((home / "coordinator.log").read_text()[-2000:])
    (run_dir,) = (home / "site" / "runs").iterdir()
    return describe(run_dir, lives) | {
        "enrol_seconds": enrol_seconds,
        "wall_seconds": time.monotonic() - begin,
    }


def describe(run_dir: Path, lives: Lives) -> dict[str, Any]:
    """Makes figures of a run's log; all parts but `cpu` are means over nodes that add up to the round."""
    events = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    rounds = []
    for closed in (event for event in events if event["event"] == "round_closed"):
        reports = [
            event
            for event in events
            if event["event"] == "node_reported" and event["round"] == closed["round"]
        ]
        end = datetime.fromisoformat(closed["time"]).timestamp()
        begin = end - closed["seconds"]
        parts = {
            phase: float(np.mean([report["phase_seconds"][phase] for report in reports])) for phase in PHASES
        }
        spans = [lives.between(report["node"], begin, end) for report in reports]
        life, cpu = (float(seconds) for seconds in np.mean(spans, axis=0))
        parts["process"] = life - sum(parts.values())
        parts["Flower"] = closed["seconds"] - life
        parts["cpu"] = cpu
        rounds.append({"seconds": closed["seconds"], "accuracy": closed["accuracy_mean"]} | parts)
    return {"rounds": rounds, "overhead_seconds": [line["seconds"] - line["train"] for line in rounds]}


def show(name: str, figures: dict[str, Any]) -> str:
    """Puts the figures of one deployment into lines for people."""
    columns = ("seconds", *PHASES, "process", "Flower", "cpu", "accuracy")
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
