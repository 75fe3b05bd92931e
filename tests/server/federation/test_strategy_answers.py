"""Answers that are wrong, late or missing: FedDistill says why it drops one, and what a late one weighs."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode

from fedstill.common.errors import RunError
from fedstill.protos.fedstill.v1 import fleet_pb2
from fedstill.server.exchange.publication import Publication
from fedstill.server.grids import LocalGrid
from fedstill.server.grids.hosting import decode, refuse, stamp
from fedstill.server.run.events import NodeReported, RoundClosed
from fedstill.server.run.records import ConclusionRecord
from fedstill.server.schemes import Contribution
from tests.server.answering import (
    NUM_SAMPLES,
    Change,
    answering_app,
    contribute,
    crash,
    dropped,
    federate,
    misbehave,
)


def test_a_lost_node_is_named_although_flower_answers_for_it() -> None:
    def fail(response: fleet_pb2.TaskResponse, task: fleet_pb2.TaskRequest) -> None:
        raise RuntimeError("no room")

    class AnsweringForOthers(LocalGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
            replies = super().pull_messages(message_ids)
            for reply in replies:
                if reply.has_error():
                    reply.metadata.__dict__["_src_node_id"] = SUPERLINK_NODE_ID
            return replies

    strategy, grid, events = federate(answering_app(fail), "federation.num_rounds=1")
    grid.__class__ = AnsweringForOthers
    with pytest.raises(RunError):
        strategy.start(grid)
    assert [drop.node_id for drop in dropped(events)] == [f"node-{index:04d}" for index in range(4)]


def wrong_round(response: fleet_pb2.TaskResponse, task: fleet_pb2.TaskRequest) -> None:
    response.round = task.round - 1


def wrong_name(response: fleet_pb2.TaskResponse, task: fleet_pb2.TaskRequest) -> None:
    response.node_id = "node-0003"


def short_predictions(response: fleet_pb2.TaskResponse, task: fleet_pb2.TaskRequest) -> None:
    response.evaluation.classes = b"\0\0"


def impossible_class(response: fleet_pb2.TaskResponse, task: fleet_pb2.TaskRequest) -> None:
    response.evaluation.classes = b"\xff\xff" * NUM_SAMPLES


def impossible_confidence(response: fleet_pb2.TaskResponse, task: fleet_pb2.TaskRequest) -> None:
    response.evaluation.confidences = np.full(NUM_SAMPLES, np.nan, "<f2").tobytes()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (wrong_round, "late"),
        (wrong_name, "refused"),
        (short_predictions, "refused"),
        (impossible_class, "refused"),
        (impossible_confidence, "refused"),
        (crash, "error"),
    ],
)
def test_bad_answer_is_dropped_with_its_reason_and_the_others_count(change: Change, reason: str) -> None:
    app = answering_app(misbehave("node-0001", change))
    strategy, grid, events = federate(app, "federation.num_rounds=1")
    strategy.start(grid)
    assert [(event.node_id, event.reason) for event in dropped(events)] == [("node-0001", reason)]
    assert [line.node_id for line in strategy.state.rounds[0].nodes] == [
        "node-0000",
        "node-0002",
        "node-0003",
    ]
    assert strategy.state.nodes["node-0001"].base_round == 0


def test_round_without_any_good_answer_ends_the_run_with_the_reason() -> None:
    strategy, grid, _ = federate(answering_app(crash))
    with pytest.raises(RunError, match="out of paper"):
        strategy.start(grid)


class ExpiringGrid(LocalGrid):
    """Says of every task of one node that it is no longer there, as Flower does when its time is over."""

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        messages = list(messages)
        message_ids = super().push_messages(messages)
        for message_id, message in zip(message_ids, messages, strict=True):
            if message.metadata.dst_node_id == 2 and message.metadata.message_type == "train":
                reply = refuse(message, code=ErrorCode.MESSAGE_UNAVAILABLE, reason="it may have expired")
                self._replies[message_id] = reply
        return message_ids


@pytest.mark.parametrize(("deadline_seconds", "reason"), [(0.9, "timeout"), (60, "lost")])
def test_task_that_expired_is_unanswered_and_rests_its_node_as_slow_only_at_the_deadline(
    deadline_seconds: float, reason: str
) -> None:
    settings = ("federation.rest_after=1", f"federation.deadline_seconds={deadline_seconds}")
    strategy, grid, events = federate(
        answering_app(), "federation.num_rounds=1", *settings, grid_type=ExpiringGrid
    )
    strategy.start(grid)
    assert [(event.node_id, event.reason) for event in dropped(events)] == [("node-0001", "unanswered")]
    assert strategy.state.nodes["node-0001"].rest_reason == reason
    assert strategy.state.rounds[0].num_dropped == 1


class UnhurriedGrid(LocalGrid):
    """Loses every task of one node, and says so to whoever asks when its time is over; asking takes long."""

    def __init__(self, app: ClientApp, *, num_nodes: int, run_config: dict[str, Any]) -> None:
        super().__init__(app, num_nodes=num_nodes, run_config=run_config)
        self._lost: dict[str, tuple[Message, float]] = {}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        message_ids = []
        for message in messages:
            if message.metadata.dst_node_id == 2 and message.metadata.message_type == "train":
                message_ids.append(stamp(message))
                self._lost[message_ids[-1]] = message, time.monotonic() + message.metadata.ttl
            else:
                message_ids += super().push_messages([message])
        return message_ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        wanted, now = set(message_ids), time.monotonic()
        replies = super().pull_messages(wanted)
        for message_id in [one for one in wanted & self._lost.keys() if self._lost[one][1] < now]:
            message, _ = self._lost.pop(message_id)
            replies.append(decode(refuse(message, code=ErrorCode.MESSAGE_UNAVAILABLE, reason="it expired")))
        time.sleep(0.4)
        return replies


def test_a_node_whose_task_expired_with_the_round_gets_the_next_one() -> None:
    settings = ("federation.num_rounds=3", "federation.deadline_seconds=0.9")
    strategy, grid, events = federate(answering_app(), *settings, grid_type=UnhurriedGrid)
    strategy.start(grid)
    closed = [(event.num_sampled, event.num_dropped) for event in events if isinstance(event, RoundClosed)]
    assert closed == [(4, 1)] * 3


def test_late_answers_weigh_less_where_that_is_wanted() -> None:
    strategy, grid, events = federate(
        answering_app(),
        "federation.quorum=0.5",
        "federation.num_rounds=4",
        "federation.staleness=weigh",
    )
    concluded: list[list[tuple[str, float]]] = []

    def conclude(
        round_number: int, contributions: list[Contribution]
    ) -> tuple[Publication, ConclusionRecord]:
        strategy.oldest_open_round(round_number)
        concluded.append([(item.node_id, item.weight) for item in contributions])
        return strategy.federation.publication, ConclusionRecord()

    strategy.close_the_loop(contribute, conclude)
    strategy.start(grid)
    # Two of four close round 1; the others' answers come while round 2 waits, one round late.
    assert [weight for _, weight in concluded[0]] == [1, 1]
    late = [node for node, weight in concluded[1] if weight == 2**-0.5]
    assert len(late) == 2
    assert not set(late) & {node for node, _ in concluded[0]}
    assert concluded[1] == sorted(concluded[1])
    line = strategy.state.rounds[1]
    assert line.weighed_rounds == dict.fromkeys(late, 1)
    assert line.num_replied + 2 == len(concluded[1])
    # Nobody's answer is lost or counted twice: all that was not concluded was dropped as late.
    reported = [(event.round, event.node_id) for event in events if isinstance(event, NodeReported)]
    assert len(reported) == len(set(reported))
    assert strategy.state.nodes[late[0]].num_rounds == sum(node == late[0] for _, node in reported)


def test_tasks_whose_answers_may_come_late_have_no_deadline() -> None:
    seen = []

    def look(response: fleet_pb2.TaskResponse, task: fleet_pb2.TaskRequest) -> None:
        seen.append(task.deadline_seconds)

    for policy in ("drop", "weigh"):
        strategy, grid, _ = federate(
            answering_app(look),
            f"federation.staleness={policy}",
            "federation.deadline_seconds=30",
            "federation.num_rounds=1",
        )
        strategy.start(grid)
    assert seen == [30.0] * 4 + [0.0] * 4
