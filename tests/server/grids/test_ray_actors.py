"""Ray's actors: who works on what, which messages wait on one, and what is lost where one dies."""

import os
import signal
import time

import pytest
import ray
from flwr.common.constant import ErrorCode

from fedstill.server.grids.ray_grid import AHEAD_SECONDS
from tests.server.grids.orders import NUM_NODES, by_node, facts, pull_until, tell, tell_all

pytestmark = pytest.mark.xdist_group("ray")


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


def answered(replies):
    return {reply.metadata.reply_to_message_id for reply in replies}


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
    deadline = time.monotonic() + 60
    # Until they go one by one, and are short: on a busy machine none is at times.
    while any(slot.batch_size > 1 or slot.last_seconds >= AHEAD_SECONDS / 2 for slot in ray_grid._slots):
        assert time.monotonic() < deadline, "messages of 60 ms are not short here"
        ray_grid.send_and_receive(tell_all(ray_grid, "sleep", seconds=0.06))
