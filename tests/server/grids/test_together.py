"""Messages that a process carries out side by side, where its app's module has a way to."""

from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedstill.server.grids import LocalGrid
from tests.server.grids.orders import by_node, tell


@pytest.fixture
def make_grid(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return lambda **options: LocalGrid("together_app:app", num_nodes=6, run_config={}, **options)


def counts(replies):
    return {node: reply.content["facts"]["num_beside"] for node, reply in sorted(by_node(replies).items())}


def test_tasks_of_a_round_go_together_up_to_the_most(make_grid):
    replies = make_grid(max_together=4).send_and_receive([tell(node) for node in range(1, 7)])
    assert counts(replies) == {1: 4, 2: 4, 3: 4, 4: 4, 5: 2, 6: 2}


def test_without_leave_each_goes_by_itself(make_grid):
    assert set(counts(make_grid().send_and_receive([tell(1), tell(2)])).values()) == {0}


def test_what_is_no_training_goes_by_itself(make_grid):
    record = RecordDict({"order": ConfigRecord({"action": "echo"})})
    replies = make_grid(max_together=4).send_and_receive([Message(record, node, "query") for node in (1, 2)])
    assert set(counts(replies).values()) == {0}


def test_rounds_are_not_mixed(make_grid):
    messages = [tell(node) for node in range(1, 5)]
    for message in messages[2:]:
        message.metadata.group_id = "2"
    assert set(counts(make_grid(max_together=4).send_and_receive(messages)).values()) == {2}


def test_what_fails_one_is_its_own(make_grid):
    replies = by_node(make_grid(max_together=4).send_and_receive([tell(1), tell(2, "raise"), tell(3)]))
    assert replies[2].error.reason == "RunError: as told to node 2"
    assert counts([replies[1], replies[3]]) == {1: 3, 3: 3}


def test_what_fails_all_is_told_by_each(make_grid):
    replies = make_grid(max_together=4).send_and_receive([tell(1), tell(2, "break")])
    assert [reply.error.reason for reply in replies] == ["RunError: all of them"] * 2


def test_what_expired_is_left_out(make_grid):
    grid = make_grid(max_together=4)
    late = tell(1)
    late.metadata.ttl = 1e-9
    replies = by_node(grid.send_and_receive([late, tell(2), tell(3)]))
    assert "expired" in replies[1].error.reason
    assert counts([replies[2], replies[3]]) == {2: 2, 3: 2}
