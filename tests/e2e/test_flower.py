"""`flwr run .` on Flower's own simulation: the same app, end to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.deployment, pytest.mark.xdist_group("deployment-2")]
ROOT = Path(__file__).resolve().parents[2]
FLWR = Path(sys.executable).with_name("flwr")
QUICK = (
    "teacher.num_epochs=4 distill.num_epochs=2 federation.num_rounds=1 federation.num_nodes=2"
    " federation.control_fraction=0.0"
)


@pytest.fixture
def flower_home(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment of its own for Flower, and an end to the daemon that `flwr run` leaves behind."""
    home = tmp_path / "flower"
    home.mkdir()
    yield os.environ | {
        "FLWR_HOME": str(home),
        "HOME": str(home),
        "FEDSTILL_HOME": str(tmp_path / "home"),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # Else Flower joins whatever Ray another test has running, and ends with it.
        "RAY_ADDRESS": "local",
        "PATH": f"{FLWR.parent}{os.pathsep}{os.environ['PATH']}",
    }
    for process in psutil.process_iter():
        try:
            if process.environ().get("FLWR_HOME") == str(home):
                process.kill()
        except psutil.Error:
            continue


def flwr(*arguments: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [str(FLWR), *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wait_for_status(environment: dict[str, str]) -> str:
    deadline = time.monotonic() + 200
    status = "unknown"
    while time.monotonic() < deadline:
        (run,) = json.loads(flwr("ls", "--format", "json", environment=environment))["runs"]
        status = run["status"]
        if status.startswith("finished"):
            return f"{status} {run['status-details']}".strip()
        time.sleep(1)
    return status


def test_flwr_run_completes_a_federation(flower_home: dict[str, str], tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    settings = f'{QUICK} run.dir="{run_dir}"'
    flwr("run", ".", "--run-config", settings, environment=flower_home)
    status = wait_for_status(flower_home)
    log = Path(flower_home["FLWR_HOME"]) / "local-superlink" / "superlink.log"
    assert status.startswith("finished:completed"), f"{status}\n{log.read_text()[-4000:]}"
    summary = json.loads((run_dir / "summary.json").read_text())
    assert [node["num_rounds"] for node in summary["nodes"]] == [1, 1]
