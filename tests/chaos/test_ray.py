"""Ray actors that are killed or frozen, and a coordinator that is killed above them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import ray._private.node
from flwr.app import Context, RecordDict

from fedstill.common.config import Config, flatten, load_config
from fedstill.server.app import make_app
from fedstill.server.grids import LocalGrid, RayGrid
from fedstill.server.grids.hosted_grid import HostedGrid
from fedstill.server.run.events import RoundClosed
from fedstill.server.run.summary import read_summary
from fedstill.server.simulate import simulate

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
DEADLINE_SECONDS = 20.0
# Actors import torch; on a busy machine that takes them more than the default minute.
PATIENT = "federation.wait_seconds=300"
FAULTY = (
    PATIENT,
    "teacher.num_epochs=15",
    "teacher.num_threads=1",
    "teacher.learning_rate=0.003",
    "distill.num_epochs=6",
    "federation.num_nodes=10",
    "federation.num_rounds=4",
    "federation.num_actors=2",
    "federation.partitioner=iid",
    "federation.control_fraction=0.0",
    "federation.quorum=1.0",
    f"federation.deadline_seconds={DEADLINE_SECONDS}",
    "exchange.collect_artefacts=false",
)
UPLOADING = (
    PATIENT,
    "federation.scheme=ensemble",
    "federation.num_nodes=6",
    "federation.num_rounds=4",
    "federation.num_actors=2",
    "federation.control_fraction=0.0",
    "federation.partitioner=iid",
    "distill.num_epochs=1",
    "data.num_public=200",
    "exchange.chunk_bytes=4096",
    "monitoring.enabled=false",
)
KILLED, FROZEN = ["node-0001", "node-0004", "node-0007"], "node-0002"


def run_on(grid: HostedGrid, config: Config, run_dir: Path, observe: Callable[[object], None]) -> None:
    run_config = flatten(config) | {"run.dir": str(run_dir)}
    context = Context(
        run_id=grid.run.run_id, node_id=0, node_config={}, state=RecordDict(), run_config=run_config
    )
    make_app([observe])(grid, context)


def run_on_ray(
    config: Config, run_dir: Path, observe: Callable[[object], None], *, struck: dict[str, dict[str, str]]
) -> None:
    environment = {
        "CHAOS_STRUCK": json.dumps(struck),
        "CHAOS_FOLDER": str(run_dir),
        "FEDSTILL_HOME": os.environ["FEDSTILL_HOME"],
    }
    with RayGrid(
        "fragile_app:app",
        num_nodes=config.federation.num_nodes,
        run_config=flatten(config) | {"run.dir": str(run_dir)},
        num_actors=config.federation.num_actors,
        working_dir=Path(__file__).parent,
        environment=environment,
    ) as grid:
        run_on(grid, config, run_dir, observe)


def ray_processes() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [child for child in children if child.name() in {"gcs_server", "raylet"}]


def test_ray_whose_raylet_dies_as_it_starts_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    struck: list[int] = []

    def strike() -> None:
        while not struck:
            with suppress(psutil.NoSuchProcess):
                for process in ray_processes():
                    if process.name() == "raylet":
                        process.kill()
                        struck.append(process.pid)

    # Ray waits half a minute for its raylet; once that is dead, an hour passes at once.
    clock = SimpleNamespace(
        monotonic=lambda: time.monotonic() + 3600 * len(struck), sleep=time.sleep, time=time.time
    )
    monkeypatch.setattr(ray._private.node, "time", clock)
    striker = threading.Thread(target=strike, daemon=True)
    striker.start()
    with RayGrid("fragile_app:app", num_nodes=2, run_config={}, num_actors=1):
        striker.join()
        assert sorted(process.name() for process in ray_processes()) == ["gcs_server", "raylet"]
        assert struck[0] not in {process.pid for process in ray_processes()}
    assert ray_processes() == []


def test_rounds_end_in_time_when_nodes_die_or_freeze_and_the_fleet_learns_on(tmp_path: Path) -> None:
    config, closed = load_config(overrides=FAULTY), []

    def watch(event: object) -> None:
        if isinstance(event, RoundClosed):
            closed.append(event)
            if event.round == 3:
                os.kill(int((tmp_path / "ray" / "frozen").read_text()), signal.SIGCONT)

    struck = {"2": {"1": "before", "4": "during", "7": "after"}, "3": {"2": "frozen"}}
    run_on_ray(config, tmp_path / "ray", watch, struck=struck)
    lines = [json.loads(line) for line in (tmp_path / "ray" / "rounds.jsonl").read_text().splitlines()]
    answered = [{node["node_id"] for node in line["nodes"]} for line in lines]
    everyone = {f"node-{index:04d}" for index in range(10)}
    assert answered[0] == everyone
    assert answered[1] == everyone - set(KILLED)  # 30 % of them, and the round ends with what is left
    assert FROZEN not in answered[2]
    assert set(KILLED) <= answered[2]  # their actors are back
    assert not any(node["state_reset"] for line in lines for node in line["nodes"])  # with their students
    assert all(event.seconds < 1.2 * DEADLINE_SECONDS for event in closed)
    assert [line["num_dropped"] for line in lines[1:3]] == [3, 1]

    calm = simulate(config, run_dir=tmp_path / "calm", grid_name="local")
    struck = read_summary(tmp_path / "ray")
    print(f"accuracy {struck.fleet.accuracy_mean:.4f} with faults, {calm.fleet.accuracy_mean:.4f} without")
    assert abs((struck.fleet.accuracy_mean or 0) - (calm.fleet.accuracy_mean or 1)) < 0.01


def test_the_aggregate_is_that_of_who_answered_wherever_the_others_were_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: Callable[[Path], dict[str, Any]]
) -> None:
    config = load_config(overrides=UPLOADING)
    moments = {"0": "upload", "1": "before", "3": "during", "4": "after"}
    run_on_ray(config, tmp_path / "ray", lambda event: None, struck={"2": moments})
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("CHAOS_STRUCK", json.dumps({"2": dict.fromkeys(moments, "raises")}))
    run_dir = tmp_path / "local"
    run_config = flatten(config) | {"run.dir": str(run_dir)}
    with LocalGrid("fragile_app:app", num_nodes=6, run_config=run_config) as grid:
        run_on(grid, config, run_dir, lambda event: None)
    found = ending(tmp_path / "ray")
    assert [line["num_dropped"] for line in found["rounds"]] == [0, 4, 0, 0]
    assert len({line["label_set_id"] for line in found["rounds"]}) == 4  # each round's aggregate is new
    assert found == ending(run_dir)


def test_a_coordinator_killed_above_its_actors_leaves_none_and_resumes_to_the_identical_ending(
    warm: Any,
    tmp_path: Path,
    ending: Callable[[Path], dict[str, Any]],
    committed: Callable[[Path], int],
    patiently: Callable[..., None],
) -> None:
    settings = [
        PATIENT,
        "federation.scheme=ensemble",
        "federation.num_nodes=4",
        "federation.num_rounds=5",
        "federation.num_actors=2",
        "federation.control_fraction=0.0",
        "distill.num_epochs=2",
        "data.num_public=200",
        "monitoring.enabled=false",
    ]
    arguments = [part for item in settings for part in ("--set", item)]
    command = [sys.executable, "-c", "from fedstill.server.cli import main; main()", "simulate"]
    run_dir = tmp_path / "killed"
    environment = os.environ | {"FEDSTILL_HOME": str(warm.home)}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--run-dir", str(run_dir), *arguments],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        family: list[psutil.Process] = []
        try:

            def has_begun() -> bool:
                assert process.poll() is None, (tmp_path / "log").read_text()
                return committed(run_dir) >= 2

            patiently(has_begun, within_seconds=360, what="second round")
            family = psutil.Process(process.pid).children(recursive=True)
            actors = [
                child for child in family if "BatchHost" in child.name() or "BatchHost" in child.cmdline()[0]
            ]
            assert len(actors) == 2, family
            process.kill()
            process.wait()
            # Ray's agents look for their parent now and then; whoever could write is gone at once.
            _, alive = psutil.wait_procs(actors, timeout=10)
            assert not alive
        finally:
            for child in [*family, process]:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            process.wait()
    assert warm.start("simulate", "--grid", "local", "--resume", str(run_dir)).end() == 0
    assert (
        warm.start("simulate", "--grid", "local", "--run-dir", str(tmp_path / "whole"), *arguments).end() == 0
    )
    assert ending(run_dir) == ending(tmp_path / "whole")
