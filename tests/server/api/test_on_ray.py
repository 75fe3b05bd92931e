"""FedStill from Python on a Ray that is there already, as in a notebook or on a head node."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray

import fedstill
from fedstill.server.grids.ray_connection import unclosed_files_ignored

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.slow]
SETTINGS = {
    "teacher.num_epochs": 2,
    "teacher.min_accuracy": 0.0,
    "distill.num_epochs": 1,
    "federation.num_nodes": 2,
    "federation.num_rounds": 1,
    "federation.num_actors": 1,
    "federation.control_fraction": 0.0,
    "monitoring.quality_nodes": 0,
}


def test_a_ray_that_is_there_is_used_and_left_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of its own future
    with unclosed_files_ignored():
        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
        try:
            found = fedstill.simulate(SETTINGS, run_dir=tmp_path / "run", progress=False)
            assert len(found.nodes) == 2
            assert ray.is_initialized()
            assert ray.get(ray.put(1)) == 1
        finally:
            ray.shutdown()
