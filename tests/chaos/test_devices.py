"""A real deployment under mutual TLS, its parts killed one after the other: it goes on and loses nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import pytest

from server.authority import init_authority
from server.enrolment import add_node
from tests.deployment import (
    coordinator,
    find_run,
    free_port,
    list_processes,
    read_events,
    read_rounds,
    start_devices,
    started,
    wait_until,
)

pytestmark = [pytest.mark.slow, pytest.mark.alone]
TASK = "flwr-clientapp"
NODES = ("device-a", "device-b")


def enrol(folder: Path, port: int) -> None:
    init_authority(folder / "certificates")
    for name in NODES:
        data = str(folder / f"{name[-1]}.npz")
        add_node(folder / "certificates", name, folder / name, superlink=f"127.0.0.1:{port}", data=data)


@pytest.mark.timeout(600)
def test_killed_parts_come_back_and_the_run_goes_on(
    site: dict[str, str], tmp_path: Path, whole: Callable[[Path], None]
) -> None:
    port, log, mark = free_port(), tmp_path / "coordinator.log", str(tmp_path)
    enrol(tmp_path, port)
    settings = ["federation.num_rounds=5", "federation.deadline_seconds=90"]
    # Students that would not reach the teacher before the last round: the run would stop there.
    settings += ["teacher.num_epochs=12", "distill.num_epochs=2"]
    command = [*coordinator(tmp_path, port, *settings), "--certificates", "certificates", "--run-id", "run"]
    with ExitStack() as stack:
        process = stack.enter_context(started(command, site, log))
        start_devices(stack, tmp_path, site)

        def wait_for_work(number: int, *, num_nodes: int) -> None:
            """Waits until so many nodes are at the round's task."""
            begins: list[float] = []

            def has_begun() -> bool:
                events = [e for e in read_events(tmp_path, "phase_started") if e["round"] == number]
                begins.extend(datetime.fromisoformat(event["time"]).timestamp() for event in events)
                return bool(begins)

            def is_at_work() -> bool:
                return sum(task.create_time() > begins[0] for task in list_processes(mark, TASK)) >= num_nodes

            wait_until(has_begun, process, log, seconds=240)
            wait_until(is_at_work, process, log, seconds=120)

        def kill(program: str, *words: str) -> None:
            (part,) = list_processes(mark, program, *words)
            part.kill()

        wait_for_work(2, num_nodes=2)
        kill("flower-supernode", "device-a")
        wait_for_work(3, num_nodes=1)
        kill("flower-superlink")
        wait_for_work(4, num_nodes=1)
        kill("flower-superexec", f"127.0.0.1:{port}")
        wait_for_work(5, num_nodes=1)
        left = [*list_processes(mark, "flower-superlink"), *list_processes(mark, "flwr-serverapp")]
        process.kill()
        process.wait()
        said = log.read_text()
        assert [part.is_running() for part in left] == [True, True]  # they know of nothing
        process = stack.enter_context(started(command, site, log))
        assert process.wait(240) == 0, log.read_text()
        assert not any(part.is_running() for part in left)
        said_again = log.read_text()
    run_dir = find_run(tmp_path)
    whole(run_dir)
    rounds = read_rounds(tmp_path)
    assert [line["round"] for line in rounds] == [1, 2, 3, 4, 5]
    assert [line["num_replied"] for line in rounds][:2] == [2, 1]
    assert all(line["num_replied"] for line in rounds)  # what was on its way through a SuperLink may be lost
    first = read_events(tmp_path, "reply_dropped")[0]
    assert (first["round"], first["node"], first["reason"]) == (2, "device-a", "lost")
    for part in ("superlink", "superexec"):
        assert f"the {part} ended with code -9 and is started again" in said
    assert "to go on" in said
    assert "what a killed coordinator had left was ended" in said_again
    assert "to go on" in said_again
    nodes = json.loads((run_dir / "summary.json").read_text())["nodes"]
    assert [node["node_id"] for node in nodes] == list(NODES)
    assert [node["num_rounds"] for node in nodes] == [
        sum(name in [report["node_id"] for report in line["nodes"]] for line in rounds) for name in NODES
    ]
    assert [node["num_train_samples"] for node in nodes] == [140, 140]
    assert min(node["accuracy"] for node in nodes) > 0.5
    assert not any(node["num_state_resets"] for node in nodes)  # their students were on disk
