"""Nodes that fail again and again rest for 1, 2, 4 … rounds, and one good answer ends it."""

from __future__ import annotations

import numpy as np
import pytest

from fedstill.server.rounds.resting import (
    MAX_DOUBLINGS,
    choose_rested,
    count_rested,
    record_failure,
    record_success,
)
from fedstill.server.run.state import NodeState


def node(name: str = "node-0000", **fields: object) -> NodeState:
    return NodeState.model_validate(
        {"node_id": name, "family": "mlp", "num_train_samples": 9, "num_private_test": 2} | fields
    )


def rounds_asked(num_rounds: int, *, rest_after: int) -> list[int]:
    """Rounds in which a node that always fails is asked."""
    nodes, asked = {"node-0000": node()}, []
    for number in range(1, num_rounds + 1):
        if not choose_rested(nodes, nodes, round_number=number, num_needed=0):
            asked.append(number)
            record_failure(nodes["node-0000"], round_number=number, reason="lost", rest_after=rest_after)
    return asked


def test_rests_double_with_one_try_between() -> None:
    assert rounds_asked(25, rest_after=3) == [1, 2, 3, 5, 8, 13, 22]


def test_rests_stop_growing() -> None:
    gaps = np.diff(rounds_asked(600, rest_after=1))
    assert gaps.max() == 2**MAX_DOUBLINGS + 1


def test_nobody_rests_where_it_is_switched_off() -> None:
    assert rounds_asked(9, rest_after=0) == list(range(1, 10))


def test_a_good_answer_begins_the_count_anew() -> None:
    tired = node()
    for number in (1, 2):
        record_failure(tired, round_number=number, reason="lost", rest_after=3)
    record_success(tired)
    record_failure(tired, round_number=4, reason="lost", rest_after=3)
    assert (tired.num_failures, tired.rests_until, tired.num_rests) == (1, 0, 0)


def test_those_wake_first_whose_rest_ends_first_where_too_few_are_awake() -> None:
    nodes = {name: node(name, rests_until=until) for name, until in (("a", 0), ("b", 9), ("c", 6), ("d", 7))}
    assert choose_rested(nodes, nodes, round_number=5, num_needed=1) == {"b", "c", "d"}
    assert choose_rested(nodes, nodes, round_number=5, num_needed=3) == {"b"}
    assert choose_rested(nodes, ["b"], round_number=5, num_needed=4) == set()


@pytest.mark.parametrize("rested", [["a", "b", "c"], ["c", "b", "a"]])
def test_rested_nodes_are_counted_by_reason(rested: list[str]) -> None:
    nodes = {
        "a": node(rest_reason="timeout"),
        "b": node(rest_reason="lost"),
        "c": node(rest_reason="timeout"),
    }
    assert list(count_rested(nodes, rested).items()) == [("lost", 1), ("timeout", 2)]
