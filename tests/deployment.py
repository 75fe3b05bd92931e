"""A deployment on loopback, each part a process: `fedstill coordinator` and `fedstill-node run`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from sklearn.datasets import load_digits

BIN = Path(sys.executable).parent
QUICK = {
    "data.private": "nodes",
    "data.num_server": 500,
    "data.num_public": 400,
    "federation.num_nodes": 2,
    "federation.num_rounds": 2,
    "federation.control_fraction": 0.0,
    "federation.wait_seconds": 120.0,
    "teacher.num_epochs": 25,
    "distill.num_epochs": 4,
    "monitoring.enabled": "false",
}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextmanager
def open_site(folder: Path) -> Iterator[dict[str, str]]:
    """Data of a coordinator and two devices, and an end to whatever is started with this environment."""
    digits = load_digits()
    x, y = digits.images.astype(np.uint8), digits.target
    order = np.random.default_rng(0).permutation(len(y))
    parts = np.split(order, [200, 400, 1400])
    for name, part in zip(("a", "b"), parts[:2], strict=True):
        np.savez(folder / f"{name}.npz", x=x[part], y=y[part])
    train, test = parts[2:]
    np.savez(folder / "server.npz", x_train=x[train], y_train=y[train], x_test=x[test], y_test=y[test])
    mark = str(folder)
    try:
        yield os.environ | {"FEDSTILL_TEST_SITE": mark, "COLUMNS": "200"}
    finally:
        for process in list_processes(mark):
            process.kill()


def list_processes(mark: str, program: str = "", *words: str) -> list[psutil.Process]:
    """Lists the processes of a site whose program has this name and whose arguments hold these words."""
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            is_program = not program or any(Path(word).name == program for word in command[:3])
            if not (is_program and all(word in " ".join(command) for word in words)):
                continue
            if process.environ().get("FEDSTILL_TEST_SITE") == mark:
                found.append(process)
        except psutil.Error:
            continue
    return found


@contextmanager
def started(
    command: list[object], environment: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(word) for word in command], env=environment, stdout=file, stderr=file, cwd=log.parent
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(40)


def start_devices(stack: ExitStack, folder: Path, environment: dict[str, str]) -> None:
    """Starts two devices on the bundles that lie in `folder`."""
    for name in ("a", "b"):
        command = [BIN / "fedstill-node", "run", "--bundle", folder / f"device-{name}"]
        command += ["--home", folder / f"home-{name}"]
        stack.enter_context(started(command, environment, folder / f"{name}.log"))


def coordinator(folder: Path, port: int, *overrides: str) -> list[object]:
    settings = [f"data.source={folder / 'server.npz'}", *(f"{key}={value}" for key, value in QUICK.items())]
    command = [BIN / "fedstill", "coordinator", "--home", folder / "site", "--port", port]
    return command + [word for setting in (*settings, *overrides) for word in ("--set", setting)]


def wait_until(
    is_so: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, *, seconds: float
) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if is_so():
            return
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(f"waited {seconds} s in vain: {log.read_text()}")


def find_run(folder: Path) -> Path:
    (run_dir,) = (folder / "site" / "runs").iterdir()
    return run_dir


def read_rounds(folder: Path) -> list[dict[str, Any]]:
    """Reads the lines of the rounds that are committed."""
    return [
        json.loads(line)
        for path in (folder / "site" / "runs").glob("*/rounds.jsonl")
        for line in path.read_text().splitlines()
    ]


def read_events(folder: Path, name: str) -> list[dict[str, Any]]:
    """Reads the events of one kind that the run has logged."""
    lines = [
        json.loads(line)
        for path in (folder / "site" / "runs").glob("*/log.jsonl")
        for line in path.read_text().splitlines(keepends=True)
        if line.endswith("\n")
    ]
    return [line for line in lines if line["event"] == name]
