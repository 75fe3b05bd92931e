"""The same federation on Ray actors: the same rounds, the same artefacts, and a clean end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from fedstill.common.config import Config
from fedstill.server.run.state import load_state
from fedstill.server.simulate import simulate

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
TIMINGS = ("seconds", "phase_seconds", "wire_bytes")


def comparable(run_dir: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (run_dir / "rounds.jsonl").read_text().splitlines()]
    for line in lines:
        for record in (line, *line["nodes"]):
            for name in TIMINGS:
                record.pop(name, None)
    return lines


def heed_interrupts() -> None:
    # A suite that runs in the background inherits SIGINT ignored, and so would the child.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def launch(*arguments: str, home: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", "from fedstill.server.cli import main; main()", "simulate", *arguments]
    environment = os.environ | {"FEDSTILL_HOME": str(home)}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )
    try:
        yield process
    finally:
        for child in family_of(process):
            with suppress(psutil.NoSuchProcess):
                child.kill()
        process.kill()


def family_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def test_ray_grid_and_local_grid_end_the_same(
    quick_config: Config, quick_overrides: list[str], tmp_path: Path
) -> None:
    with launch(
        "--json", "--run-dir", str(tmp_path / "ray"), *quick_overrides, home=tmp_path / "home"
    ) as process:
        local = simulate(quick_config, run_dir=tmp_path / "local", grid_name="local")
        output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    summary = json.loads(output)
    assert comparable(tmp_path / "ray") == comparable(tmp_path / "local")
    assert [node["artefact_digest"] for node in summary["nodes"]] == [
        node.artefact_digest for node in local.nodes
    ]


def test_interrupt_ends_with_130_leaves_no_process_and_can_be_resumed(
    quick_overrides: list[str], tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    # Students that hardly learn never come near the teacher, which would end the run.
    more = ["--set", "federation.num_rounds=500", "--set", "distill.learning_rate=1e-6"]
    with launch("--run-dir", str(run_dir), *quick_overrides, *more, home=tmp_path / "home") as process:
        wait_for_round(run_dir, process)
        family = family_of(process)
        assert family
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130, errors
        _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    assert "Traceback" not in errors
    assert load_state(run_dir).round >= 1
    assert [json.loads(line)["round"] for line in (run_dir / "rounds.jsonl").read_text().splitlines()]


def wait_for_round(run_dir: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        rounds = run_dir / "rounds.jsonl"
        if rounds.exists() and rounds.read_text():
            return
        time.sleep(0.1)
    raise AssertionError("no round was committed within two minutes")
