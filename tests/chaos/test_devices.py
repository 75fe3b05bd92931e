"""A real deployment whose parts are killed one after the other: the run goes on, and nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import pytest

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


@pytest.mark.timeout(500)
def test_killed_supernode_superlink_and_superexec_come_back_and_the_run_goes_on(
    site: dict[str, str], tmp_path: Path, whole: Callable[[Path], None]
) -> None:
    port, log, mark = free_port(), tmp_path / "coordinator.log", str(tmp_path)
    settings = ["federation.num_rounds=4", "federation.deadline_seconds=90", "teacher.num_epochs=8"]
    with ExitStack() as stack:
        process = stack.enter_context(started(coordinator(tmp_path, port, *settings), site, log))
        start_devices(stack, tmp_path, site, port)

        def wait(is_so: Callable[[], bool], seconds: float = 240) -> None:
            wait_until(is_so, process, log, seconds=seconds)

        def wait_for_work(number: int) -> None:
            begins: list[float] = []

            def has_begun() -> bool:
                events = [e for e in read_events(tmp_path, "phase_started") if e["round"] == number]
                begins.extend(datetime.fromisoformat(event["time"]).timestamp() for event in events)
                return bool(begins)

            wait(has_begun)
            wait(lambda: sum(task.create_time() > begins[0] for task in list_processes(mark, TASK)) == 2)

        def kill(program: str, *words: str) -> None:
            (part,) = list_processes(mark, program, *words)
            part.kill()

        wait_for_work(2)
        kill("flower-supernode", "device-a")
        wait_for_work(3)
        kill("flower-superlink")
        wait_for_work(4)
        kill("flower-superexec", f"127.0.0.1:{port}")
        assert process.wait(180) == 0, log.read_text()
    said, run_dir = log.read_text(), find_run(tmp_path)
    whole(run_dir)
    rounds = read_rounds(tmp_path)
    assert [line["round"] for line in rounds] == [1, 2, 3, 4]
    assert [line["num_replied"] for line in rounds][:2] == [2, 1]
    assert all(line["num_replied"] for line in rounds)  # what was on its way through a SuperLink may be lost
    first = read_events(tmp_path, "reply_dropped")[0]
    assert (first["round"], first["node"], first["reason"]) == (2, "device-a", "lost")
    assert [event["node"] for event in read_events(tmp_path, "node_joined")] == ["device-a"]
    for part in ("superlink", "superexec"):
        assert f"the {part} ended with code -9 and is started again" in said
    assert "to go on" in said
    nodes = json.loads((run_dir / "summary.json").read_text())["nodes"]
    assert [node["node_id"] for node in nodes] == ["device-a", "device-b"]
    assert [node["num_rounds"] for node in nodes] == [
        sum(name in [report["node_id"] for report in line["nodes"]] for line in rounds)
        for name in ("device-a", "device-b")
    ]
    assert [node["num_train_samples"] for node in nodes] == [140, 140]
    assert min(node["accuracy"] for node in nodes) > 0.5
    assert not any(node["num_state_resets"] for node in nodes)  # their students were on disk
