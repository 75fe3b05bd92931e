"""FedDistill's rounds: whom they ask, when they close, and which of them are committed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from flwr.app import ArrayRecord, ConfigRecord

from fedstill.common.errors import RunError
from fedstill.protos.fedstill.v1 import fleet_pb2
from fedstill.server.grids import LocalGrid
from fedstill.server.rounds.sampling import list_free
from fedstill.server.run.events import NodeReported, RoundClosed
from tests.server.answering import answering_app, crash, dropped, federate, misbehave


def test_every_round_reaches_every_node() -> None:
    strategy, grid, events = federate(answering_app())
    strategy.start(grid)
    assert [event.num_replied for event in events if isinstance(event, RoundClosed)] == [4, 4]
    assert [node.base_round for node in strategy.state.nodes.values()] == [2, 2, 2, 2]


def test_accuracy_is_counted_from_predictions_by_the_coordinator() -> None:
    strategy, grid, _ = federate(answering_app(num_correct=7))
    strategy.start(grid)
    assert strategy.state.rounds[-1].accuracy_mean == pytest.approx(0.7)


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
    first, second = (line.nodes[0].evaluation_bytes for line in strategy.state.rounds)
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
    strategy.federation.config.federation.__dict__["min_nodes"] = 4
    strategy.configure_train(2, ArrayRecord(), ConfigRecord(), grid)
    assert any("2 nodes are free, 4 are needed" in str(event) for event in events)
    assert len(list_free(strategy.federation.fleet, strategy.state)) == 4


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
    assert [line.num_sampled for line in lines] == [4, 3, 4, 3, 3, 4]
    assert [line.num_rested for line in lines] == [{}, {"error": 1}, {}, {"error": 1}, {"error": 1}, {}]


def test_it_runs_in_the_loop_of_flowers_own_strategy(tmp_path: Path) -> None:
    from flwr.app import ArrayRecord, ConfigRecord

    strategy, grid, _ = federate(answering_app())
    messages = strategy.configure_train(1, ArrayRecord(), ConfigRecord(), grid)
    arrays, metrics = strategy.aggregate_train(1, grid.send_and_receive(messages, timeout=10))
    assert arrays is None
    assert metrics is not None
    assert metrics["num_replied"] == 4
