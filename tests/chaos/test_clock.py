"""A clock that is 40 days off stands in nobody's way: only spans of time count."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = (
    "federation.scheme=ensemble",
    "federation.num_nodes=2",
    "federation.num_rounds=2",
    "federation.control_fraction=0.0",
    "federation.deadline_seconds=60",
    "distill.num_epochs=1",
    "data.num_public=100",
)


@pytest.mark.slow
def test_a_run_that_resumes_40_days_earlier_ends_the_same(
    warm: Any,
    tmp_path: Path,
    require_program: Callable[[str], str],
    ending: Callable[[Path], dict[str, Any]],
    committed: Callable[[Path], int],
    patiently: Callable[..., None],
) -> None:
    faketime = require_program("faketime")
    settings = [part for item in SETTINGS for part in ("--set", item)]
    begin = ["simulate", "--grid", "local", *settings, "--run-dir"]
    run_dir = tmp_path / "run"
    life = warm.start(*begin, str(run_dir))
    patiently(lambda: committed(run_dir) >= 1, within_seconds=60, what="first round")
    life.kill()
    program = [sys.executable, "-c", "from fedstill.server.cli import main; main()"]
    done = subprocess.run(
        [faketime, "-f", "-40d", *program, "simulate", "--grid", "local", "--resume", str(run_dir)],
        cwd=ROOT,
        env=os.environ | {"FEDSTILL_HOME": str(warm.home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert warm.start(*begin, str(tmp_path / "whole")).end() == 0
    assert ending(run_dir) == ending(tmp_path / "whole")
