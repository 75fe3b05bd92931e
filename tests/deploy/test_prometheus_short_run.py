"""What Prometheus as README sets it up has recorded of a short run, once that run is over."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedstill.common.config import Config


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_default_simulation_leaves_accuracy_and_size_of_every_node(
    shipped_prometheus: Any, tmp_path: Path
) -> None:
    targets = f"monitoring.targets_dir={shipped_prometheus.targets_dir}"
    arguments = ["simulate", "--run-dir", str(tmp_path / "run"), "--set", targets]
    program = "from fedstill.server.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=tmp_path,
        env=os.environ | {"FEDSTILL_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=540,
    )
    assert done.returncode == 0, done.stderr
    assert "waiting 30.0 s at most until Prometheus" in done.stderr.splitlines()[-1]
    assert list(shipped_prometheus.targets_dir.iterdir()) == []

    num_nodes = Config().federation.num_nodes
    for name in ("fedstill_node_accuracy_ratio", "fedstill_node_model_bytes"):
        # The newest sample of each series within the time that the run and this test take.
        [[_, count]] = [
            series["value"] for series in shipped_prometheus.query(f"count(last_over_time({name}[10m]))")
        ]
        assert int(count) == num_nodes, name
    [last] = shipped_prometheus.query("last_over_time(fedstill_round[10m])")
    assert int(last["value"][1]) == Config().federation.num_rounds
