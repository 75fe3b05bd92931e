"""FedDistill closes rounds at quorum or deadline and never mixes in what is late or wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode

from common.config import Config, flatten, load_config
from common.errors import RunError
from common.models import InputSpec
from common.wire import pack, predictions_to_proto, unpack
from protos.fedstill.v1 import fleet_pb2
from server.checkpoints import FederationState
from server.events import Event, NodeReported, ReplyDropped, RoundClosed
from server.grids import LocalGrid
from server.grids.hosting import refuse
from server.publication import Publication
from server.sampling import list_free
from server.schemes import Contribution
from server.scoring import Truth
from server.strategy import FedDistill

NUM_SAMPLES, NUM_CLASSES = 10, 4
SPEC = InputSpec("image", (8, 8), "uint8", "HW", 1.0, (0.0,), (1.0,))
Change = Callable[[fleet_pb2.TaskResponse, fleet_pb2.TaskRequest], None]


def answering_app(change: Change | None = None, *, num_correct: int = 8) -> ClientApp:
    """A node that answers at once, its artefact right on `num_correct` of ten samples."""
    app = ClientApp()

    @app.query()
    def hello(message: Message, context: Context) -> Message:
        name = f"node-{int(context.node_config['partition-id']):04d}"
        return Message(pack(fleet_pb2.HelloResponse(node_id=name, num_train_samples=5)), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        task = unpack(message.content, fleet_pb2.TaskRequest)
        probabilities = np.full((NUM_SAMPLES, NUM_CLASSES), 0.1, np.float32)
        probabilities[np.arange(NUM_SAMPLES), (np.arange(NUM_SAMPLES) >= num_correct).astype(int)] = 0.7
        predictions = predictions_to_proto(probabilities)
        response = fleet_pb2.TaskResponse(
            run_id=task.run_id,
            round=task.round,
            node_id=f"node-{int(context.node_config['partition-id']):04d}",
            evaluation=predictions,
            evaluation_fp32=predictions,
            validation=predictions,
            model=fleet_pb2.ModelFacts(num_parameters=10, fp32_bytes=40, artefact_bytes=30),
        )
        if change is not None:
            change(response, task)
        return Message(pack(response), reply_to=message)

    return app


def federate(
    app: ClientApp,
    *overrides: str,
    teacher_hits_S: np.ndarray | None = None,
    state: FederationState | None = None,
) -> tuple[FedDistill, LocalGrid, list[Event]]:
    config: Config = load_config(overrides=["federation.num_nodes=4", "federation.num_rounds=2", *overrides])
    events: list[Event] = []
    zeros = np.zeros(NUM_SAMPLES, np.int64)
    strategy = FedDistill(
        config,
        Publication(
            "127.0.0.1:1",
            SPEC,
            ("a", "b", "c", "d"),
            (),
            b"\1" * 32,
            b"\2" * 32,
            array_bytes={"01" * 32: 100, "02" * 32: 50},
        ),
        Truth(zeros, zeros, NUM_CLASSES, teacher_hits_S=teacher_hits_S),
        state=state or FederationState(run_id="run"),
        num_public=32,
        observe=events.append,
    )
    return strategy, LocalGrid(app, num_nodes=4, run_config=flatten(config)), events


def dropped(events: list[Event]) -> list[ReplyDropped]:
    return [event for event in events if isinstance(event, ReplyDropped)]


def test_every_round_reaches_every_node() -> None:
    strategy, grid, events = federate(answering_app())
    strategy.start(grid)
    assert [event.num_replied for event in events if isinstance(event, RoundClosed)] == [4, 4]
    assert [node.base_round for node in strategy.state.nodes.values()] == [2, 2, 2, 2]


def test_accuracy_is_counted_from_predictions_by_the_coordinator() -> None:
    strategy, grid, _ = federate(answering_app(num_correct=7))
    strategy.start(grid)
    assert strategy.state.rounds[-1]["accuracy_mean"] == pytest.approx(0.7)


def test_result_holds_the_figures_of_each_round() -> None:
    strategy, grid, _ = federate(answering_app())
    result = strategy.start(grid)
    assert result.train_metrics_clientapp[2]["accuracy_mean"] == pytest.approx(0.8)


def test_round_closes_at_quorum_and_late_replies_are_counted_not_mixed_in() -> None:
    strategy, grid, events = federate(answering_app(), "federation.quorum=0.5")
    strategy.start(grid)
    closed = [event for event in events if isinstance(event, RoundClosed)]
    assert [event.num_replied for event in closed] == [2, 1]  # two of four are still busy in round 2
    late = [event for event in dropped(events) if event.reason == "late"]
    assert {event.round for event in late} == {1}
    reported = [(event.round, event.node_id) for event in events if isinstance(event, NodeReported)]
    assert len(reported) == len(set(reported)) == 3


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


def test_busy_nodes_are_not_sampled_again() -> None:
    strategy, grid, events = federate(answering_app(), "federation.quorum=0.5")
    strategy.start(grid)
    first, second = (
        [e.node_id for e in events if isinstance(e, NodeReported) and e.round == r] for r in (1, 2)
    )
    assert set(second) <= set(first)


def test_round_closes_at_its_deadline_with_whoever_answered() -> None:
    def slow(response: fleet_pb2.TaskResponse, task: fleet_pb2.TaskRequest) -> None:
        time.sleep(0.25)

    strategy, grid, events = federate(
        answering_app(slow), "federation.deadline_seconds=0.4", "federation.num_rounds=1"
    )
    strategy.start(grid)
    (closed,) = [event for event in events if isinstance(event, RoundClosed)]
    assert 1 <= closed.num_replied < 4
    assert closed.num_dropped == 4 - closed.num_replied


def misbehave(node: str, change: Change) -> Change:
    def apply(response: fleet_pb2.TaskResponse, task: fleet_pb2.TaskRequest) -> None:
        if response.node_id == node:
            change(response, task)

    return apply


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


def crash(response: fleet_pb2.TaskResponse, task: fleet_pb2.TaskRequest) -> None:
    raise ValueError("out of paper")


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
    assert [line["node_id"] for line in strategy.state.rounds[0]["nodes"]] == [
        "node-0000",
        "node-0002",
        "node-0003",
    ]
    assert strategy.state.nodes["node-0001"].base_round == 0


def test_round_without_any_good_answer_ends_the_run_with_the_reason() -> None:
    strategy, grid, _ = federate(answering_app(crash))
    with pytest.raises(RunError, match="out of paper"):
        strategy.start(grid)


def teacher_right_on(*samples: int) -> np.ndarray:
    return np.isin(np.arange(NUM_SAMPLES), samples)


def test_it_stops_when_students_are_near_the_teacher() -> None:
    hits_S = teacher_right_on(*range(8))
    strategy, grid, _ = federate(
        answering_app(num_correct=8), "federation.target_gap=0.05", teacher_hits_S=hits_S
    )
    strategy.start(grid)
    assert strategy.state.round == 1
    assert "within 0.05 of the teacher" in strategy.state.stopped_because


def test_it_goes_on_while_students_are_far_from_the_teacher() -> None:
    hits_S = teacher_right_on(*range(NUM_SAMPLES))
    strategy, grid, _ = federate(
        answering_app(num_correct=8), "federation.target_gap=0.05", teacher_hits_S=hits_S
    )
    strategy.start(grid)
    assert strategy.state.round == 2


def test_it_goes_on_where_students_may_be_near_by_luck_alone() -> None:
    # As often right as the teacher, but on other samples: .2 of them differ, so the error is large.
    hits_S = teacher_right_on(*range(7), NUM_SAMPLES - 1)
    strategy, grid, _ = federate(
        answering_app(num_correct=8), "federation.target_gap=0.05", teacher_hits_S=hits_S
    )
    strategy.start(grid)
    assert strategy.state.round == 2
    assert strategy.state.rounds[-1]["gap"] == pytest.approx(0)


def test_it_goes_on_where_the_teacher_has_left_its_students_behind() -> None:
    strategy, grid, _ = federate(
        answering_app(num_correct=8), "federation.target_gap=0.05", teacher_hits_S=teacher_right_on(*range(8))
    )

    def receive(response: fleet_pb2.TaskResponse) -> Contribution:
        return Contribution(response.node_id, np.zeros((1, 1)), np.ones(1))

    def conclude(round_number: int, contributions: list[Contribution]) -> tuple[Publication, dict[str, Any]]:
        strategy.truth = replace(strategy.truth, teacher_hits_S=teacher_right_on(*range(NUM_SAMPLES)))
        return strategy.publication, {}

    strategy.close_the_loop(receive, conclude)
    strategy.start(grid)
    assert strategy.state.round == 2


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
    strategy, _, events = federate(answering_app(), "federation.num_rounds=1", *settings)
    config = load_config(overrides=["federation.num_nodes=4"])
    strategy.start(ExpiringGrid(answering_app(), num_nodes=4, run_config=flatten(config)))
    assert [(event.node_id, event.reason) for event in dropped(events)] == [("node-0001", "unanswered")]
    assert strategy.state.nodes["node-0001"].rest_reason == reason
    assert strategy.state.rounds[0]["num_dropped"] == 1


def test_sample_fraction_draws_the_same_nodes_for_the_same_seed() -> None:
    drawn = []
    for _ in range(2):
        strategy, grid, events = federate(answering_app(), "federation.sample_fraction=0.5")
        strategy.start(grid)
        drawn.append([(event.round, event.node_id) for event in events if isinstance(event, NodeReported)])
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 4


def test_arrays_count_once_per_node_over_rounds() -> None:
    strategy, grid, _ = federate(answering_app())
    strategy.start(grid)
    first, second = (line["nodes"][0]["evaluation_bytes"] for line in strategy.state.rounds)
    assert first - second == 150


def test_resumed_state_goes_on_after_its_last_round() -> None:
    strategy, grid, _ = federate(answering_app(), "federation.num_rounds=1")
    strategy.start(grid)
    again, grid, events = federate(
        answering_app(), state=strategy.state.model_copy(update={"stopped_because": ""})
    )
    again.start(grid)
    assert [event.round for event in events if isinstance(event, RoundClosed)] == [2]


def test_missing_nodes_end_the_wait_with_their_number() -> None:
    strategy, _, _ = federate(answering_app(), "federation.wait_seconds=0.3")
    few = LocalGrid(answering_app(), num_nodes=2, run_config={})
    with pytest.raises(RunError, match="expected 4 nodes, 2 introduced themselves"):
        strategy.start(few)


def test_min_nodes_are_enough_when_the_wait_is_over() -> None:
    strategy, _, events = federate(
        answering_app(), "federation.wait_seconds=0.3", "federation.min_nodes=2", "federation.num_rounds=1"
    )
    strategy.start(LocalGrid(answering_app(), num_nodes=2, run_config={}))
    assert [event.num_replied for event in events if isinstance(event, RoundClosed)] == [2]


def test_a_round_below_min_nodes_is_not_committed() -> None:
    app = answering_app(misbehave("node-0001", crash))
    strategy, grid, _ = federate(app, "federation.min_nodes=4")
    with pytest.raises(RunError, match=r"3 of 4 nodes .*min_nodes is 4.*--resume"):
        strategy.start(grid)
    assert strategy.state.rounds == []


def test_a_fleet_below_min_nodes_pauses_the_run_and_says_so() -> None:
    strategy, grid, events = federate(answering_app(), "federation.quorum=0.5", "federation.min_nodes=2")
    strategy.introduce(grid)
    strategy._run_round(grid, 1, timeout=None)
    strategy.config.federation.__dict__["min_nodes"] = 4
    strategy.configure_train(2, ArrayRecord(), ConfigRecord(), grid)
    assert any("2 nodes are free, 4 are needed" in str(event) for event in events)
    assert len(list_free(strategy.fleet, strategy.state)) == 4


def test_over_sampling_asks_more_nodes_and_closes_at_the_wanted_number() -> None:
    strategy, grid, events = federate(
        answering_app(),
        "federation.sample_fraction=0.5",
        "federation.over_sampling=1.5",
        "federation.num_rounds=1",
    )
    strategy.start(grid)
    (closed,) = [event for event in events if isinstance(event, RoundClosed)]
    assert (closed.num_sampled, closed.num_replied) == (3, 2)


def test_a_node_that_keeps_failing_rests_and_is_counted_by_reason() -> None:
    app = answering_app(misbehave("node-0001", crash))
    strategy, grid, _ = federate(app, "federation.rest_after=1", "federation.num_rounds=6")
    strategy.start(grid)
    lines = strategy.state.rounds
    assert [line["num_sampled"] for line in lines] == [4, 3, 4, 3, 3, 4]
    assert [line["num_rested"] for line in lines] == [{}, {"error": 1}, {}, {"error": 1}, {"error": 1}, {}]


def test_it_runs_in_the_loop_of_flowers_own_strategy(tmp_path: Path) -> None:
    from flwr.app import ArrayRecord, ConfigRecord

    strategy, grid, _ = federate(answering_app())
    messages = strategy.configure_train(1, ArrayRecord(), ConfigRecord(), grid)
    arrays, metrics = strategy.aggregate_train(1, grid.send_and_receive(messages, timeout=10))
    assert arrays is None
    assert metrics is not None
    assert metrics["num_replied"] == 4


def test_late_answers_weigh_less_where_that_is_wanted() -> None:
    strategy, grid, events = federate(
        answering_app(),
        "federation.quorum=0.5",
        "federation.num_rounds=4",
        "federation.staleness=weigh",
    )
    concluded: list[list[tuple[str, float]]] = []

    def receive(response: fleet_pb2.TaskResponse) -> Contribution:
        return Contribution(response.node_id, np.zeros((1, 1)), np.ones(1))

    def conclude(round_number: int, contributions: list[Contribution]) -> tuple[Publication, dict[str, Any]]:
        strategy.oldest_open_round(round_number)
        concluded.append([(item.node_id, item.weight) for item in contributions])
        return strategy.publication, {}

    strategy.close_the_loop(receive, conclude)
    strategy.start(grid)
    # Two of four close round 1; the others' answers come while round 2 waits, one round late.
    assert [weight for _, weight in concluded[0]] == [1, 1]
    late = [node for node, weight in concluded[1] if weight == 2**-0.5]
    assert len(late) == 2
    assert not set(late) & {node for node, _ in concluded[0]}
    assert concluded[1] == sorted(concluded[1])
    line = strategy.state.rounds[1]
    assert line["weighed_rounds"] == dict.fromkeys(late, 1)
    assert line["num_replied"] + 2 == len(concluded[1])
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
