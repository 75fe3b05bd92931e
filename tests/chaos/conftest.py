"""Coordinators that can be killed, and what a run folder has to look like afterwards."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedstill.server.run.state import STATE_FILE, load_state

ROOT = Path(__file__).resolve().parents[2]
LIFE_SECONDS = 120.0
TIMINGS = ("seconds", "phase_seconds", "wire_bytes")


@dataclass
class Life:
    """One process that runs `fedstill`."""

    pid: int
    log: Path
    _answers: Any
    code: int | None = None

    def is_over(self, within_seconds: float) -> bool:
        """Waits at most so long for it to end."""
        if self.code is None and select.select([self._answers], [], [], within_seconds)[0]:
            self.code = int(self._answers.readline())
        return self.code is not None

    def end(self) -> int:
        """Waits for its own end; it may not take for ever."""
        if not self.is_over(LIFE_SECONDS):
            self.kill()
            pytest.fail(f"still running after {LIFE_SECONDS:g} s:\n{self.log.read_text()[-3000:]}")
        assert self.code is not None
        return self.code

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Sends a signal, unless it is over already, and waits for the end."""
        if not self.is_over(0):
            os.kill(self.pid, number)
            assert self.is_over(30), "a killed process did not end"

    def complaint(self) -> str:
        """The lines that it printed for its user about what went wrong."""
        return "\n".join(line for line in self.log.read_text().splitlines() if line.startswith("fedstill:"))


class Warm:
    """Starts coordinators; see `warm.py`. One at a time per instance: what a failed test left is ended."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.home, self._folder, self._num_lives = home, folder, 0
        self._life: Life | None = None
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("warm.py"))],
            cwd=ROOT,
            env=os.environ | {"FEDSTILL_HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin
        assert self._process.stdout
        self._requests, self._answers = self._process.stdin, self._process.stdout
        assert self._answers.readline() == b"ready\n"

    def start(self, *arguments: str) -> Life:
        if self._life:
            self._life.kill()
        self._num_lives += 1
        log = self._folder / f"life-{self._num_lives}.log"
        self._requests.write(json.dumps({"arguments": arguments, "log": str(log)}).encode() + b"\n")
        self._requests.flush()
        self._life = Life(int(self._answers.readline()), log, self._answers)
        return self._life

    def close(self) -> None:
        self._requests.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        self._process.kill()
        self._process.wait()
        self._answers.close()


@pytest.fixture(scope="session")
def start_warm(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[], Warm]]:
    """Makes starters of coordinators that all share one home; they are ended with the tests."""
    home, opened = tmp_path_factory.mktemp("chaos-home"), []

    def start() -> Warm:
        opened.append(Warm(tmp_path_factory.mktemp("lives"), home))
        return opened[-1]

    yield start
    for warm in opened:
        warm.close()


@pytest.fixture(scope="session")
def warm(start_warm: Callable[[], Warm]) -> Warm:
    return start_warm()


def read_ending(run_dir: Path) -> dict[str, Any]:
    """What two runs of one configuration have in common: everything but timings and caches."""
    rounds = [json.loads(line) for line in (run_dir / "rounds.jsonl").read_text().splitlines()]
    for line in rounds:
        for record in (line, *line["nodes"]):
            for name in TIMINGS:
                record.pop(name, None)
    summary = json.loads((run_dir / "summary.json").read_text())
    return {
        "rounds": rounds,
        "teacher": summary["teacher"] and summary["teacher"]["digest"],
        "num_teacher_epochs": load_state(run_dir).exchange.teacher_epochs,
        "students": [node["student_digest"] for node in summary["nodes"]],
        "artefacts": [node["artefact_digest"] for node in summary["nodes"]],
        "controls": [node["local_accuracy"] for node in summary["nodes"]],
        "bytes": [summary["fleet"]["bytes_down"], summary["fleet"]["bytes_up"]],
        "stopped_because": summary["stopped_because"],
    }


def check_nothing_torn(run_dir: Path) -> None:
    """Reads every file of a run folder that has a name: each is whole."""
    for path in run_dir.rglob("*"):
        if not path.is_file() or any(part.startswith(".") for part in path.relative_to(run_dir).parts):
            continue
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.name == "rounds.jsonl":
            rounds = [json.loads(line)["round"] for line in path.read_text().splitlines()]
            assert rounds == list(range(1, len(rounds) + 1))
        elif path.suffix == ".npy":
            np.load(path, allow_pickle=False)
        elif path.suffix == ".safetensors":
            load_file(path)
    if (run_dir / STATE_FILE).exists():
        load_state(run_dir)


def count_committed(run_dir: Path) -> int:
    """Counts the rounds that a living run has committed: its rounds' file is there before its state is."""
    return load_state(run_dir).round if (run_dir / STATE_FILE).exists() else 0


def wait_for(condition: Callable[[], bool], *, within_seconds: float, what: str) -> None:
    deadline = time.monotonic() + within_seconds
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {within_seconds:g} s"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def ending() -> Callable[[Path], dict[str, Any]]:
    return read_ending


@pytest.fixture(scope="session")
def whole() -> Callable[[Path], None]:
    return check_nothing_torn


@pytest.fixture(scope="session")
def committed() -> Callable[[Path], int]:
    return count_committed


@pytest.fixture(scope="session")
def patiently() -> Callable[..., None]:
    return wait_for
