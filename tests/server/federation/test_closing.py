"""Latencies are measured on quiet machines, and on all machines at the same time."""

from __future__ import annotations

from fedstill.server.federation.closing import MAX_AT_ONCE, take_turns


def test_nodes_of_one_machine_take_turns_and_machines_do_not_wait_for_each_other() -> None:
    hosts = {"a": "one", "b": "two", "c": "one", "d": "three", "e": "one"}
    assert take_turns(hosts) == [["a", "b", "d"], ["c"], ["e"]]


def test_only_so_many_machines_hand_in_at_once() -> None:
    turns = take_turns({f"node-{index:04d}": f"host-{index}" for index in range(2 * MAX_AT_ONCE + 1)})
    assert [len(turn) for turn in turns] == [MAX_AT_ONCE, MAX_AT_ONCE, 1]
