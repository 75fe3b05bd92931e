"""What answers to older rounds weigh, and that they are mixed in once, whatever came first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from flwr.app.error import Error
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st

from fedstill.common.config import load_config
from fedstill.common.errors import ConfigError, ExchangeError
from fedstill.common.wire import pack
from fedstill.protos.fedstill.v1 import fleet_pb2
from fedstill.server.federation.preparation import check_names
from fedstill.server.rounds.answers import ReplyScore
from fedstill.server.rounds.staleness import LateAnswers, weigh_age
from fedstill.server.run.state import FederationState
from fedstill.server.schemes import Contribution


def test_weight_by_hand() -> None:
    # (1 + 3)^−½ = ½.
    assert weigh_age(3, exponent=0.5) == 0.5


@given(age=st.integers(0, 1000), exponent=st.floats(0, 10))
def test_older_answers_never_weigh_more(age: int, exponent: float) -> None:
    weight = weigh_age(age, exponent=exponent)
    assert 0 <= weigh_age(age + 1, exponent=exponent) <= weight <= 1
    assert weigh_age(0, exponent=exponent) == 1


def test_golden_weight() -> None:
    assert weigh_age(5, exponent=0.7) == pytest.approx(0.28529497656828423, rel=1e-12)


@pytest.fixture(autouse=True)
def task_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower makes messages only for a process that works on a task."""
    for name in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def answer(round_number: int, node_id: str, *, run_id: str = "run") -> Message:
    content = fleet_pb2.TaskResponse(run_id=run_id, round=round_number, node_id=node_id)
    return Message(pack(content), 1, "train")


def score(response: fleet_pb2.TaskResponse, publication: Any) -> ReplyScore:
    assert publication == f"published in {response.round}"
    if response.node_id == "node-0009":
        raise ExchangeError("its array is not whole")
    nothing = np.empty(0)
    values = Contribution(response.node_id, nothing, nothing)
    return ReplyScore(response.round, response.node_id, {}, None, 0, 0, 0, values)


def keep_all(answers: list[tuple[int, str]]) -> LateAnswers:
    late = LateAnswers(exponent=0.5)
    for round_number in (1, 2, 3):
        late.note_round(round_number, f"published in {round_number}", pending=[1, 2])  # type: ignore[arg-type]
    for number, node in answers:
        assert late.keep(number, node, answer(number, node))
    return late


def take(
    late: LateAnswers, in_time: list[tuple[int, str]]
) -> tuple[list[tuple[str, int, float]], list[tuple[str, str]]]:
    dropped: list[tuple[str, str]] = []
    scores = late.take(
        4,
        FederationState(run_id="run"),
        [ReplyScore(number, node, {}, None, 0, 0, 0) for number, node in in_time],
        score=score,
        drop=lambda event: dropped.append((event.node_id, event.reason)),
    )
    weights = [(item.node_id, item.round, item.contribution.weight) for item in scores if item.contribution]
    return weights, dropped


def test_late_answers_weigh_by_their_age_in_the_order_of_nodes_however_they_came() -> None:
    answers = [(1, "node-0002"), (3, "node-0001"), (2, "node-0000")]
    for order in (answers, answers[::-1]):
        weights, dropped = take(keep_all(order), [])
        assert weights == [
            ("node-0000", 2, 3**-0.5),
            ("node-0001", 3, 2**-0.5),
            ("node-0002", 1, 0.5),
        ]
        assert not dropped


def test_a_late_answer_is_taken_once_and_not_beside_a_newer_one() -> None:
    late = keep_all([(1, "node-0002"), (2, "node-0009"), (2, "node-0000")])
    weights, dropped = take(late, [(4, "node-0002")])
    assert [node for node, *_ in weights] == ["node-0000"]
    assert dropped == [("node-0002", "late"), ("node-0009", "refused")]
    assert take(late, []) == ([], [])


def test_errors_and_answers_of_unknown_rounds_are_not_kept() -> None:
    late = keep_all([])
    assert not late.keep(7, "node-0000", answer(7, "node-0000"))
    failed = Message(Error(0, "out of paper"), reply_to=answer(1, "node-0000"))
    assert not late.keep(1, "node-0000", failed)


def test_the_oldest_round_that_may_still_be_answered_stays_open() -> None:
    late = LateAnswers(exponent=0.5)
    publication: Any = "published"
    assert late.note_round(1, publication, pending=[1]) == 1
    assert late.note_round(5, publication, pending=[1, 5]) == 1
    assert late.note_round(6, publication, pending=[5]) == 5
    assert late.note_round(7, publication, pending=[]) == 7


def test_robust_aggregators_take_no_weights_and_say_so() -> None:
    config = load_config(
        overrides=[
            "federation.scheme=ensemble",
            "federation.staleness=weigh",
            "federation.aggregator=median",
        ]
    )
    with pytest.raises(
        ConfigError, match="median counts every node alike; use one of class_count, confidence"
    ):
        check_names(config)
    mean = config.federation.model_copy(update={"aggregator": "mean"})
    check_names(config.model_copy(update={"federation": mean}))
