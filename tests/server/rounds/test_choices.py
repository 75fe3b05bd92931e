"""What a node says that it chose is checked before it counts."""

from __future__ import annotations

import math

import pytest

from fedstill.common.errors import ExchangeError
from fedstill.protos.fedstill.v1 import fleet_pb2
from fedstill.server.rounds.choices import add_choices, describe_choice
from fedstill.server.run.records import RoundRecord
from tests.server.records import node_record

GOOD = {
    "temperature": 4.0,
    "distill_lambda": 0.9,
    "num_steps": 90,
    "public_share": 0.3,
    "own_accuracy": 0.95,
    "alone_accuracy": 0.94,
    "num_validation": 12,
    "num_trial_steps": 45,
    "why": "keeps the floor",
}


def answer(**changes: object) -> fleet_pb2.TaskResponse:
    return fleet_pb2.TaskResponse(choice=fleet_pb2.Choice(**{**GOOD, **changes}))


def test_an_answer_without_choice_has_none() -> None:
    assert describe_choice(fleet_pb2.TaskResponse()) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.0},
        {"temperature": math.inf},
        {"temperature": math.nan},
        {"distill_lambda": 1.5},
        {"public_share": -0.1},
        {"own_accuracy": math.nan},
    ],
)
def test_impossible_figures_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ExchangeError, match="expected a choice of ratios"):
        describe_choice(answer(**changes))


def test_a_long_explanation_is_cut() -> None:
    described = describe_choice(answer(why="x" * 10_000))
    assert described is not None
    assert len(described.why) == 200


def test_choices_are_gathered_by_node_in_the_order_of_rounds() -> None:
    first = node_record(node_id="node-0001", choice=describe_choice(answer()))
    second = node_record(node_id="node-0001", choice=describe_choice(answer(distill_lambda=0.45)))
    lines = [
        RoundRecord(round=1, nodes=[first]),
        RoundRecord(round=2, nodes=[node_record(node_id="node-0000"), second]),
    ]
    found = {}
    for line in lines:
        add_choices(found, line)
    assert list(found) == ["node-0001"]
    assert [(choice.round, choice.distill_lambda) for choice in found["node-0001"]] == [(1, 0.9), (2, 0.45)]
