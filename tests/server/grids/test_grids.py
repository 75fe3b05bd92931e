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
import ray
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode

from common.errors import ConfigError, RunError
from server.grids import ActorNeeds, LocalGrid, RayGrid

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
NUM_NODES = 6

pytestmark = pytest.mark.xdist_group("ray")


@pytest.fixture(scope="module")
def ray_grid():
    with RayGrid(
        "echo_app:app", num_nodes=NUM_NODES, run_config={"seed": 7}, num_actors=2, working_dir=HERE
    ) as grid:
        yield grid


@pytest.fixture
def local_grid(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    with LocalGrid("echo_app:app", num_nodes=NUM_NODES, run_config={"seed": 7}) as grid:
        yield grid


@pytest.fixture(params=["local", "ray"])
def grid(request):
    grid = request.getfixturevalue(f"{request.param}_grid")
    grid.set_run(grid.run)
    return grid


def tell(node_id, action="echo", **order):
    return Message(RecordDict({"order": ConfigRecord({"action": action, **order})}), node_id, "train")


def tell_all(grid, action="echo", **order):
    return [tell(node_id, action, **order) for node_id in grid.get_node_ids()]


def by_node(replies):
    return {reply.metadata.src_node_id: reply for reply in replies}


def facts(replies):
    return {node_id: reply.content["facts"] for node_id, reply in by_node(replies).items()}


def pull_until(grid, message_ids, *, seconds=20.0):
    missing, replies, deadline = set(message_ids), [], time.monotonic() + seconds
    while missing and time.monotonic() < deadline:
        found = grid.pull_messages(missing)
        replies += found
        missing -= {reply.metadata.reply_to_message_id for reply in found}
    return replies


def pids_of_both_actors(grid):
    """Waits until both are there: the other tests kill some."""
    pids, deadline = set(), time.monotonic() + 60
    while len(pids) < 2:
        assert time.monotonic() < deadline, "only one actor answers"
        pids = {
            found["pid"]
            for found in facts(grid.send_and_receive(tell_all(grid, "sleep", seconds=0.05))).values()
        }
    return pids


def test_every_node_answers(grid):
    assert sorted(by_node(grid.send_and_receive(tell_all(grid)))) == list(range(1, NUM_NODES + 1))


def test_arrays_come_back_bit_for_bit(grid):
    message = tell(3)
    message.content["arrays"] = ArrayRecord({"a": Array("uint8", (4,), "raw", b"\x00\x01\xfe\xff")})
    [reply] = grid.send_and_receive([message])
    assert reply.content["arrays"]["a"].data == b"\x00\x01\xfe\xff"


def test_reply_names_the_message_and_both_ends(grid):
    message = tell(4)
    [message_id] = grid.push_messages([message])
    [reply] = pull_until(grid, [message_id])
    metadata = reply.metadata
    assert (metadata.reply_to_message_id, metadata.src_node_id, metadata.dst_node_id, metadata.run_id) == (
        message_id,
        4,
        message.metadata.src_node_id,
        grid.run.run_id,
    )
    assert metadata.message_id not in ("", message_id)


def test_node_finds_its_partition_and_the_run_config(grid):
    found = facts(grid.send_and_receive([tell(5)]))[5]
    assert (found["node_id"], found["partition"], found["num_partitions"], found["seed"]) == (
        5,
        4,
        NUM_NODES,
        7,
    )


def test_client_cannot_change_what_the_server_holds(grid):
    message = tell(1, "mutate", text="original")
    [reply] = grid.send_and_receive([message])
    assert (message.content["order"]["text"], reply.content["order"]["text"]) == ("original", "changed")


def test_change_after_push_goes_unseen(grid):
    message = tell(1, text="before")
    message_ids = grid.push_messages([message])
    message.content["order"]["text"] = "after"
    [reply] = pull_until(grid, message_ids)
    assert reply.content["order"]["text"] == "before"


def test_one_record_sent_to_all_nodes_is_not_shared(grid):
    content = RecordDict({"order": ConfigRecord({"action": "echo"})})
    replies = grid.send_and_receive([Message(content, node_id, "train") for node_id in grid.get_node_ids()])
    assert sorted(found["node_id"] for found in facts(replies).values()) == list(range(1, NUM_NODES + 1))


@pytest.mark.parametrize(
    ("action", "text"), [("raise", "as told"), ("exit", "SystemExit: 3"), ("wrong", "reply_to")]
)
def test_app_that_fails_costs_its_own_reply_only(grid, action, text):
    replies = by_node(grid.send_and_receive([tell(1), tell(2, action), tell(3)]))
    assert replies[1].has_content()
    assert replies[3].has_content()
    assert replies[2].error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert text in replies[2].error.reason


@pytest.mark.parametrize("node_id", [0, NUM_NODES + 1])
def test_unknown_node_is_refused_before_anything_is_sent(grid, node_id):
    before = facts(grid.send_and_receive([tell(1)]))[1]["num_calls"]
    with pytest.raises(RunError, match=rf"no node {node_id} .* 1 to {NUM_NODES}"):
        grid.push_messages([tell(1), tell(node_id)])
    assert facts(grid.send_and_receive([tell(1)]))[1]["num_calls"] == before + 1


def test_unknown_message_ids_are_passed_over(grid):
    assert list(grid.pull_messages(["nobody's"])) == []


def test_state_is_kept_per_node_from_round_to_round(grid):
    counts = [facts(grid.send_and_receive([tell(2)]))[2]["num_calls"] for _ in range(3)]
    assert counts == [counts[0], counts[0] + 1, counts[0] + 2]


def test_another_run_starts_with_empty_state(grid):
    grid.send_and_receive([tell(2)])
    run = grid.run
    other = type(run).create_empty(run_id=run.run_id + 1)
    grid.set_run(other)
    assert facts(grid.send_and_receive([tell(2)]))[2]["num_calls"] == 1


def answered(replies):
    return {reply.metadata.reply_to_message_id for reply in replies}


def test_two_messages_for_one_node_come_in_order(grid):
    replies = grid.send_and_receive([tell(3, place=0), tell(3, place=1), tell(3, place=2)])
    assert [reply.content["order"]["place"] for reply in replies] == [0, 1, 2]


def test_deadline_returns_what_is_there(grid):
    messages = [tell(1), tell(2), tell(3, "sleep", seconds=0.4), tell(4, "sleep", seconds=0.4)]
    messages += [tell(3), tell(4)]
    replies = list(grid.send_and_receive(messages, timeout=0.3))
    assert {1, 2} <= set(by_node(replies))
    assert len(replies) < len(messages)
    got = {reply.metadata.reply_to_message_id for reply in replies}
    late = [message.metadata.message_id for message in messages if message.metadata.message_id not in got]
    assert len(pull_until(grid, late)) == len(late)


def test_late_reply_is_still_to_be_had(grid):
    late = tell(1, "sleep", seconds=0.3)
    grid.send_and_receive([late], timeout=0.0)
    grid.send_and_receive([tell(2)])
    [reply] = pull_until(grid, [late.metadata.message_id])
    assert reply.metadata.src_node_id == 1


def test_message_that_expired_in_the_queue_is_not_carried_out(grid):
    before = facts(grid.send_and_receive([tell(1)]))[1]["num_calls"]
    stale = tell(1)
    stale.metadata.created_at -= 10
    stale.metadata.__dict__["_ttl"] = 5.0
    [reply] = grid.send_and_receive([stale])
    assert reply.error.code == ErrorCode.MESSAGE_UNAVAILABLE
    assert facts(grid.send_and_receive([tell(1)]))[1]["num_calls"] == before + 1


def test_a_clock_that_jumps_by_weeks_expires_no_message(local_grid, monkeypatch):
    message = Message(RecordDict({"order": ConfigRecord({"action": "echo"})}), 1, "train", ttl=30.0)
    message_ids = local_grid.push_messages([message])
    then = time.time()
    monkeypatch.setattr(time, "time", lambda: then + 40 * 86_400)
    [reply] = pull_until(local_grid, message_ids)
    assert reply.has_content()


def test_straggler_holds_up_no_sibling(ray_grid):
    pids_of_both_actors(ray_grid)
    # The batches have grown; nodes 1, 3 and 5 share an actor, and so do 2, 4 and 6.
    for _ in range(4):
        ray_grid.send_and_receive(tell_all(ray_grid))
    begin = time.monotonic()
    message_ids = ray_grid.push_messages([tell(1, "sleep", seconds=3.0), *(tell(n) for n in range(2, 7))])
    replies = pull_until(ray_grid, message_ids[1:], seconds=2.5)
    assert sorted(by_node(replies)) == [2, 3, 4, 5, 6]
    assert time.monotonic() - begin < 2.5
    [late] = pull_until(ray_grid, message_ids[:1])
    assert late.has_content()


def test_node_has_one_message_in_hand_wherever_it_goes(ray_grid):
    messages = [tell(1, "sleep", seconds=0.2, place=place) for place in range(3)]
    begin = time.monotonic()
    replies = ray_grid.send_and_receive(messages)
    assert time.monotonic() - begin >= 0.6
    assert [reply.content["order"]["place"] for reply in replies] == [0, 1, 2]


def test_nodes_stay_with_their_actor(ray_grid):
    pids_of_both_actors(ray_grid)
    rounds = [facts(ray_grid.send_and_receive(tell_all(ray_grid, "sleep", seconds=0.05))) for _ in range(3)]
    pids = [{node_id: found["pid"] for node_id, found in found.items()} for found in rounds]
    assert len(set(pids[0].values())) == 2
    assert sum(pids[1][node_id] == pids[2][node_id] for node_id in pids[1]) >= NUM_NODES - 1


def test_actors_train_with_one_thread(ray_grid):
    assert facts(ray_grid.send_and_receive([tell(1)]))[1]["threads"] == "1"


def test_app_that_ends_its_process_costs_one_reply(ray_grid, capfd):
    for _ in range(4):
        ray_grid.send_and_receive(tell_all(ray_grid))
    begin = time.monotonic()
    replies = by_node(ray_grid.send_and_receive([tell(2, "die"), *(tell(n) for n in (1, 3, 4, 5, 6))]))
    assert time.monotonic() - begin < 15
    assert replies.pop(2).error.code == ErrorCode.NODE_UNAVAILABLE
    assert all(reply.has_content() for reply in replies.values())
    assert all(reply.has_content() for reply in ray_grid.send_and_receive(tell_all(ray_grid)))
    assert capfd.readouterr() == ("", "")


def test_killed_actor_costs_one_reply_and_comes_back(ray_grid, tmp_path):
    pids = pids_of_both_actors(ray_grid)
    mark = tmp_path / "begun"
    message_ids = ray_grid.push_messages([tell(1, "sleep", seconds=30.0, mark=str(mark))])
    while not mark.exists():
        ray_grid.pull_messages(message_ids)
    others = pull_until(ray_grid, ray_grid.push_messages([tell(n) for n in range(2, 7)]))
    [busy] = pids - {found["pid"] for found in facts(others).values()}
    os.kill(busy, signal.SIGKILL)
    begin = time.monotonic()
    [reply] = pull_until(ray_grid, message_ids)
    assert reply.error.code == ErrorCode.NODE_UNAVAILABLE
    assert time.monotonic() - begin < 10
    after = facts(ray_grid.send_and_receive(tell_all(ray_grid)))
    assert sorted(after) == list(range(1, NUM_NODES + 1))
    assert after[1]["num_calls"] == 1


def test_messages_of_a_killed_actor_of_which_one_waited_are_sent_again(ray_grid, tmp_path):
    let_messages_wait(ray_grid)
    messages = [tell(n, "sleep", seconds=1.0, mark=str(tmp_path / str(n))) for n in range(1, 7)]
    message_ids, struck = ray_grid.push_messages(messages), None
    replies = []
    while struck is None:
        assert len(replies) < NUM_NODES, "no message waited on an actor"
        replies += ray_grid.pull_messages(message_ids)
        for slot in ray_grid._slots:
            if slot.ahead is not None and slot.at_work is not None:
                [job] = ray_grid._in_flight[slot.at_work].jobs
                if (tmp_path / str(job.node_id)).exists():
                    struck = job.node_id
                    ray.kill(slot.actor, no_restart=False)
                    break
    replies = by_node(replies + pull_until(ray_grid, set(message_ids) - answered(replies)))
    assert len(replies) == NUM_NODES
    assert all(reply.has_content() for reply in replies.values())


def test_message_that_ends_its_actor_costs_no_other_where_it_waited(ray_grid):
    let_messages_wait(ray_grid)
    messages = [tell(n, "die" if n in (3, 6) else "sleep", seconds=0.06) for n in range(1, 7)]
    replies = by_node(ray_grid.send_and_receive(messages))
    assert {n for n, reply in replies.items() if reply.has_error()} == {3, 6}
    assert {replies[n].error.code for n in (3, 6)} == {ErrorCode.NODE_UNAVAILABLE}


def let_messages_wait(ray_grid):
    pids_of_both_actors(ray_grid)
    for _ in range(4):  # until they go one by one
        ray_grid.send_and_receive(tell_all(ray_grid, "sleep", seconds=0.06))


def test_app_that_cannot_be_imported_is_an_error_reply(ray_grid):
    with RayGrid("no_such_app:app", num_nodes=1, run_config={}, needs=ActorNeeds(cpus=0)) as grid:
        grid.set_run(grid.run)
        [reply] = grid.send_and_receive([tell(1)])
    ray_grid.set_run(ray_grid.run)
    assert reply.error.code == ErrorCode.LOAD_CLIENT_APP_EXCEPTION
    assert "no_such_app" in reply.error.reason


def test_name_that_is_no_client_app_is_an_error_reply(local_grid):
    with LocalGrid("echo_app:imported_app", num_nodes=1, run_config={}) as grid:
        [reply] = grid.send_and_receive([tell(1)])
    assert "expected a ClientApp at echo_app:imported_app, got object" in reply.error.reason


DRIVER = """
import psutil, sys
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from server.grids import RayGrid
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
from server.grids import ActorNeeds, RayGrid
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
    code = "from server.grids import RayGrid; RayGrid(num_nodes=1, run_config={}, ray_address='127.0.0.1:1')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert f"{ConfigError.__name__}: no Ray cluster could be reached at 127.0.0.1:1" in done.stderr
