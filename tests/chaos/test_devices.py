"""A real deployment under mutual TLS, its parts killed, frozen and cut off: it goes on and loses nothing."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from fedstill.server.deployment.flower_programs import SUPERLINK
from fedstill.server.pki.authority import init_authority
from fedstill.server.pki.enrolment import add_node
from tests.chaos.proxy import Proxy
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

pytestmark = [pytest.mark.slow, pytest.mark.deployment]
TASK = "flwr-clientapp"
NODES = ("device-a", "device-b")
# Shorter than Flower takes to call a silent node gone, so that the deadline is what ends a round.
DEADLINE_SECONDS = 35


def enrol(folder: Path, *superlinks: str) -> None:
    """Enrols the two devices, each with the address at which it finds the coordinator."""
    init_authority(folder / "certificates")
    for name, superlink in zip(NODES, superlinks, strict=True):
        data = str(folder / f"{name[-1]}.npz")
        add_node(folder / "certificates", name, folder / name, superlink=superlink, data=data)


def started_at(process: psutil.Process) -> float:
    """Says when a process began: psutil adds the time of boot in whole seconds, up to one too early."""
    booted_at = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return process.create_time() - psutil.boot_time() + booted_at


def wait_for_work(
    number: int, folder: Path, process: subprocess.Popen[bytes], log: Path, *, num_nodes: int
) -> None:
    """Waits until so many nodes are at the round's task."""
    begins: list[float] = []

    def has_begun() -> bool:
        events = [event for event in read_events(folder, "phase_started") if event["round"] == number]
        begins.extend(datetime.fromisoformat(event["time"]).timestamp() for event in events)
        return bool(begins)

    def is_at_work() -> bool:
        return sum(started_at(task) > begins[0] for task in list_processes(str(folder), TASK)) >= num_nodes

    wait_until(has_begun, process, log, seconds=240)
    wait_until(is_at_work, process, log, seconds=120)


@pytest.mark.timeout(600)
@pytest.mark.xdist_group("deployment-2")
def test_killed_parts_come_back_and_the_run_goes_on(
    site: dict[str, str], tmp_path: Path, whole: Callable[[Path], None]
) -> None:
    port, log, mark = free_port(), tmp_path / "coordinator.log", str(tmp_path)
    enrol(tmp_path, *[f"127.0.0.1:{port}"] * 2)
    settings = ["federation.num_rounds=5", "federation.deadline_seconds=90"]
    # Students that would not reach the teacher before the last round: the run would stop there.
    settings += ["teacher.num_epochs=12", "distill.num_epochs=2"]
    command = [*coordinator(tmp_path, port, *settings), "--certificates", "certificates", "--run-id", "run"]
    with ExitStack() as stack:
        process = stack.enter_context(started(command, site, log))
        start_devices(stack, tmp_path, site)

        def kill(program: str, *words: str) -> None:
            (part,) = list_processes(mark, program, *words)
            part.kill()

        wait_for_work(2, tmp_path, process, log, num_nodes=2)
        kill("flower-supernode", "device-a")
        wait_for_work(3, tmp_path, process, log, num_nodes=1)
        kill(SUPERLINK)
        wait_for_work(4, tmp_path, process, log, num_nodes=1)
        kill("flower-superexec", "superexec.secret")
        wait_for_work(5, tmp_path, process, log, num_nodes=1)
        left = [*list_processes(mark, SUPERLINK), *list_processes(mark, "flwr-serverapp")]
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


@pytest.mark.timeout(600)
@pytest.mark.xdist_group("deployment-1")
def test_frozen_device_costs_its_rounds_and_a_bad_link_to_flower_costs_none(
    site: dict[str, str], tmp_path: Path, whole: Callable[[Path], None]
) -> None:
    port, log = free_port(), tmp_path / "coordinator.log"
    settings = ["federation.num_rounds=5", f"federation.deadline_seconds={DEADLINE_SECONDS}"]
    settings += ["teacher.num_epochs=12", "distill.num_epochs=2"]
    command = [*coordinator(tmp_path, port, *settings), "--certificates", "certificates", "--run-id", "run"]
    with ExitStack() as stack:
        link = stack.enter_context(Proxy(port))
        enrol(tmp_path, f"127.0.0.1:{port}", link.address)
        process = stack.enter_context(started(command, site, log))
        start_devices(stack, tmp_path, site)

        def wait_for_round(number: int) -> None:
            wait_until(lambda: len(read_rounds(tmp_path)) >= number, process, log, seconds=120)

        wait_for_work(2, tmp_path, process, log, num_nodes=2)
        frozen = freeze(tmp_path, "device-a")
        stack.callback(thaw, frozen)
        wait_for_round(2)
        thaw(frozen)
        wait_for_work(3, tmp_path, process, log, num_nodes=1)
        link.weather.resets, link.weather.cut_after, link.weather.num_cuts = True, 2_000, 3
        wait_for_work(4, tmp_path, process, log, num_nodes=1)
        assert link.weather.num_cuts == 0
        link.weather.swallows = True
        time.sleep(12)  # longer than the task takes; it may cost the round
        link.weather.swallows = False
        assert process.wait(240) == 0, log.read_text()
    whole(find_run(tmp_path))
    rounds = read_rounds(tmp_path)
    replied = [[node["node_id"] for node in line["nodes"]] for line in rounds]
    assert replied[0] == list(NODES)
    assert replied[1] == ["device-b"]
    assert "device-b" in replied[2]
    assert replied[-1] == list(NODES)
    assert DEADLINE_SECONDS - 1 <= rounds[1]["seconds"] < 1.2 * DEADLINE_SECONDS
    assert rounds[1]["num_dropped"] == 1
    assert all(line["seconds"] < 1.2 * DEADLINE_SECONDS for line in rounds)


def freeze(folder: Path, name: str) -> list[psutil.Process]:
    """Stops all processes of a device where they are."""
    (device,) = list_processes(str(folder), "fedstill-node", f"home-{name[-1]}")
    parts = [device, *device.children(recursive=True)]
    for part in parts:
        part.suspend()
    return parts


def thaw(parts: list[psutil.Process]) -> None:
    for part in parts:
        with suppress(psutil.NoSuchProcess):
            part.resume()
