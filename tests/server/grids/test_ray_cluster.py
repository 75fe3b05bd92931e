"""Ray's processes: an interrupt ends all of them, and a cluster that others started is joined."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from fedstill.common.errors import ConfigError

HERE = Path(__file__).parent
ROOT = HERE.parents[2]

pytestmark = pytest.mark.xdist_group("ray")

DRIVER = """
import psutil, sys
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from fedstill.server.grids import RayGrid
say = lambda **order: Message(RecordDict({"order": ConfigRecord(order)}), 1, "train")
with RayGrid("echo_app:app", num_nodes=2, run_config={"seed": 7}, num_actors=2,
             working_dir=Path(sys.argv[1])) as grid:
    grid.send_and_receive([say(action="echo")])
    print(*[child.pid for child in psutil.Process().children(recursive=True)], flush=True)
    grid.send_and_receive([say(action="sleep", seconds=60.0)])
"""


@pytest.mark.slow
def test_interrupt_leaves_no_process_behind():
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(HERE)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A suite that runs in the background inherits SIGINT ignored, and so would the child.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    children = [psutil.Process(int(pid)) for pid in driver.stdout.readline().split()]
    assert len(children) >= 4
    os.killpg(driver.pid, signal.SIGINT)
    _, errors = driver.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []


CLUSTER_DRIVER = """
import json, os, signal, sys
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from fedstill.server.grids import ActorNeeds, RayGrid
say = lambda node, **order: Message(RecordDict({"order": ConfigRecord(order)}), node, "train")
with RayGrid("echo_app:app", num_nodes=4, run_config={"seed": 7}, ray_address=sys.argv[1],
             working_dir=Path(sys.argv[2])) as grid:
    replies = grid.send_and_receive([say(node, action="where", seconds=0.5) for node in range(1, 5)])
    needs = ActorNeeds(cpus=0, kinds=("board",))
    with RayGrid("echo_app:app", num_nodes=2, run_config={"seed": 7}, needs=needs) as boards:
        replies += boards.send_and_receive([say(node, action="where", seconds=0.1) for node in (1, 2)])
    grid.set_run(grid.run)
    print(json.dumps([{"facts": dict(reply.content["facts"])} for reply in replies]), flush=True)
    message_ids = grid.push_messages([say(node, action="sleep", seconds=4.0) for node in range(1, 3)])
    grid.pull_messages(message_ids)
    sys.stdin.readline()
    missing, errors = set(message_ids), 0
    while missing:
        for reply in grid.pull_messages(missing):
            missing.discard(reply.metadata.reply_to_message_id)
            errors += reply.has_error()
    replies = grid.send_and_receive([say(node, action="echo") for node in range(1, 5)])
    print(json.dumps({"num_errors": errors, "num_answered": sum(reply.has_content() for reply in replies)}))
"""


def start_ray(*arguments, temp_dir, environment):
    command = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        "--block",
        "--num-cpus=1",
        "--disable-usage-stats",
    ]
    log = temp_dir / f"{len(list(temp_dir.iterdir()))}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--object-store-memory=100000000", *arguments],
            cwd=temp_dir, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    return process, log


def end(process):
    for child in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # it went with its parent
            child.kill()
    process.wait()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_existing_cluster_is_shipped_the_code_and_survives_a_node():
    temp_dir = Path(tempfile.mkdtemp(prefix="fs", dir="/tmp"))  # sockets' paths are limited to 107 bytes
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    started = []
    try:
        head, log = start_ray(
            "--head", "--port=0", "--include-dashboard=false", f"--temp-dir={temp_dir}/r",
            temp_dir=temp_dir, environment=environment,
        )  # fmt: skip
        started.append(head)
        while not (found := re.search(r"--address='([\d.]+:\d+)'", log.read_text())):
            assert head.poll() is None, log.read_text()
            time.sleep(0.1)
        address = found[1]
        second, log = start_ray(
            f"--address={address}", '--resources={"board": 2}', temp_dir=temp_dir, environment=environment,
        )  # fmt: skip
        started.append(second)
        while "Ray runtime started" not in log.read_text():
            assert second.poll() is None, log.read_text()
            time.sleep(0.1)
        driver = subprocess.Popen(
            [sys.executable, "-c", CLUSTER_DRIVER, address, str(HERE)],
            cwd=temp_dir, env=environment | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        found = [reply["facts"] for reply in json.loads(driver.stdout.readline())]
        first, on_boards = found[:4], found[4:]
        end(started.pop())
        after, _ = driver.communicate("go\n", timeout=60)
    finally:
        for process in started:
            end(process)
        shutil.rmtree(temp_dir, ignore_errors=True)
    assert all("runtime_resources" in found["code"] for found in first)
    assert len({found["ray_node"] for found in first}) == 2
    assert len({found["ray_node"] for found in on_boards}) == 1  # only one machine is a board
    assert json.loads(after) == {"num_errors": 1, "num_answered": 4}


def test_cluster_that_is_not_there_is_named():
    code = "from fedstill.server.grids import RayGrid\n"
    code += "RayGrid(num_nodes=1, run_config={}, ray_address='127.0.0.1:1')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert f"{ConfigError.__name__}: no Ray cluster could be reached at 127.0.0.1:1" in done.stderr
