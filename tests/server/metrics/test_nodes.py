"""The page with series of each node: what it shows, for how many nodes, and how fast."""

from __future__ import annotations

import statistics
import time

import pytest

from fedstill.server.metrics import RunMetrics
from fedstill.server.run.events import NodeBudgeted, NodeClosed, NodeLeft, ReplyDropped, RoundClosed
from tests.server.metered_run import play_run, report, samples


def test_node_gauges_hold_the_newest_report(metrics: RunMetrics) -> None:
    metrics(report("node-0001", accuracy=0.5, round_number=1))
    metrics(report("node-0001", accuracy=0.75, round_number=2))

    found = samples(metrics.render_nodes().decode())

    labels = (("family", "mlp"), ("node_id", "node-0001"))
    assert {name: value for (name, key), value in found.items() if key == labels} == {
        "fedstill_node_accuracy_ratio": 0.75,
        "fedstill_node_private_accuracy_ratio": 0.9,
        "fedstill_node_model_bytes": 9300,
        "fedstill_node_fp32_bytes": 9200,
        "fedstill_node_agreement_ratio": 0.97,
        "fedstill_node_last_round": 2,
        "fedstill_node_last_seen_timestamp_seconds": 1000,
        "fedstill_node_drops_total": 0,
    }


def test_an_unknown_private_accuracy_has_no_series(metrics: RunMetrics) -> None:
    metrics(report(private=None))

    names = {name for name, _ in samples(metrics.render_nodes().decode())}

    assert "fedstill_node_private_accuracy_ratio" not in names
    assert "fedstill_node_accuracy_ratio" in names


def test_node_labels_are_escaped(metrics: RunMetrics) -> None:
    metrics(report('a"b\\c\nd', family="x"))

    keys = {labels for _, labels in samples(metrics.render_nodes().decode())}

    assert keys == {(("family", "x"), ("node_id", 'a"b\\c\nd'))}


def test_nodes_past_the_bound_are_counted_not_shown() -> None:
    metrics = RunMetrics(max_node_series=2)
    for index in range(5):
        metrics(report(f"node-{index:04d}"))

    shown = {dict(labels)["node_id"] for _, labels in samples(metrics.render_nodes().decode())}

    assert shown == {"node-0000", "node-0001"}
    assert metrics.registry.get_sample_value("fedstill_nodes_without_series") == 3


def test_a_forgotten_node_makes_room_for_another() -> None:
    metrics = RunMetrics(max_node_series=1)
    metrics(report("node-0000"))
    metrics(report("node-0001"))
    metrics.forget_node("node-0000")
    metrics(report("node-0001"))

    shown = {dict(labels)["node_id"] for _, labels in samples(metrics.render_nodes().decode())}

    assert shown == {"node-0001"}
    assert metrics.registry.get_sample_value("fedstill_nodes_without_series") == 0


def test_a_node_that_left_counts_no_longer(metrics: RunMetrics) -> None:
    play_run(metrics)
    metrics(report("node-0000", accuracy=0.1))
    metrics(NodeLeft("node-0000"))
    metrics(RoundClosed(2, 0.9, 2, 2, 0, 4.0, None))

    lowest = {"family": "mlp", "percentile": "5"}
    found = metrics.registry.get_sample_value("fedstill_fleet_accuracy_ratio", lowest)

    assert b"node-0000" not in metrics.render_nodes()
    assert found is not None
    assert found > 0.9


def test_percentiles_are_by_family_and_over_all(metrics: RunMetrics) -> None:
    for index, accuracy in enumerate((0.5, 0.7, 0.9)):
        metrics(report(f"node-{index:04d}", family="mlp" if index else "cnn", accuracy=accuracy))
    metrics(RoundClosed(1, 0.7, 3, 3, 0, 4.0, None))

    def median(family: str) -> float | None:
        labels = {"family": family, "percentile": "50"}
        return metrics.registry.get_sample_value("fedstill_fleet_accuracy_ratio", labels)

    assert [median(family) for family in ("cnn", "mlp", "all")] == [0.5, pytest.approx(0.8), 0.7]


def test_budget_latency_and_drops_stand_beside_the_report(metrics: RunMetrics) -> None:
    metrics(NodeBudgeted("node-0001", 8000, None))
    metrics(ReplyDropped(1, "node-0001", "error"))
    metrics(report("node-0001"))
    metrics(NodeClosed("node-0001", None, None, 2e-5))

    found = {name: value for (name, _), value in samples(metrics.render_nodes().decode()).items()}

    assert found["fedstill_node_budget_bytes"] == 8000
    assert "fedstill_node_budget_latency_seconds" not in found
    assert found["fedstill_node_latency_seconds"] == 2e-5
    assert found["fedstill_node_drops_total"] == 1


def test_a_node_whose_family_is_unknown_is_not_shown(metrics: RunMetrics) -> None:
    metrics(ReplyDropped(1, "node-0001", "error"))

    assert b"node-0001" not in metrics.render_nodes()


def test_ten_thousand_nodes_render_within_a_tenth_of_a_second(metrics: RunMetrics) -> None:
    for index in range(10_000):
        metrics(report(f"node-{index:04d}", accuracy=0.9 + index * 1e-6))
    seconds = []
    for _ in range(5):
        started = time.process_time()
        metrics.render_nodes()
        seconds.append(time.process_time() - started)

    assert statistics.median(seconds) <= 0.1
