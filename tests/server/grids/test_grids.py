"""What both grids do alike: messages, replies, deadlines and state."""

import time

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode

from fedstill.common.errors import RunError
from fedstill.server.grids import ActorNeeds, LocalGrid, RayGrid
from tests.server.grids.orders import NUM_NODES, by_node, facts, pull_until, tell, tell_all

pytestmark = pytest.mark.xdist_group("ray")


@pytest.fixture(params=["local", "ray"])
def grid(request):
    grid = request.getfixturevalue(f"{request.param}_grid")
    grid.set_run(grid.run)
    return grid


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
