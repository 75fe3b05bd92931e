"""A run's aggregates: events in, values out."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.openmetrics.exposition import generate_latest

from fedstill.common.files import write_text_atomically
from fedstill.server.metrics.catalogue import NODE_METRICS, PERCENTILES, RUN_METRICS, Kind, Metric
from fedstill.server.metrics.nodes import NodeSeries
from fedstill.server.run.events import (
    Event,
    NodeBudgeted,
    NodeClosed,
    NodeLeft,
    NodeReported,
    PhaseAdvanced,
    PhaseEnded,
    PhaseStarted,
    ReplyDropped,
    RoundClosed,
    RunFinished,
    RunStarted,
    UploadRefused,
)

# Callers choose the names of methods that do not exist; past this many all share one label.
MAX_METHODS = 32
# The pace that the expected end goes by: the median of this many rounds.
PACE_ROUNDS = 20
ALL_FAMILIES = "all"


class RunMetrics:
    """An observer that keeps a run's metrics; safe among threads.

    Gauges are NaN until they are known, so that no alert fires on a zero that nobody measured.

    Args:
        registry: Where the aggregates register; None makes a registry of its own.
        max_node_series: Nodes that get series of their own at most; further ones
            are counted in `fedstill_nodes_without_series`.
        run_id: The run, for those who discover its endpoint.
        clock: Gives the time as seconds since 1970.
    """

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        *,
        max_node_series: int,
        run_id: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.registry = registry = CollectorRegistry() if registry is None else registry
        self.run_id = run_id
        self.nodes = NodeSeries(max_node_series)
        self._clock = clock
        self._lock = threading.Lock()
        self._metrics: dict[str, Any] = {
            metric.name: _declare(metric, registry)
            for metric in RUN_METRICS
            if metric.name != "certificate_expiry_timestamp_seconds"
        }
        self._metrics["nodes_without_series"].set_function(lambda: self.nodes.num_excess)
        self._methods: set[str] = set()
        self._codec = ""
        self._quorum = 1.0
        self._num_rounds = 0
        self._num_dropped = self._num_needed = 0
        self._round_seconds: deque[float] = deque(maxlen=PACE_ROUNDS)
        self._accuracies: dict[str, tuple[str, float]] = {}
        self._losses: dict[str, dict[str, list[float]]] = {}
        self._choices: dict[str, list[float]] = {}
        self._shown_families: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        """The metric of that name in the catalogue, for those who set it by a function."""
        return self._metrics[name]

    def __call__(self, event: Event) -> None:
        """Takes one event of the run."""
        self._observe_told(event)
        metrics = self._metrics
        match event:
            case RunStarted():
                self._begin(event)
            case PhaseStarted():
                self._begin_phase(event)
            case PhaseAdvanced() if event.phase == "round":
                metrics["round_answered_nodes"].set(event.done)
            case PhaseEnded():
                metrics["phase_active"].labels(event.phase).set(0)
                metrics["phase_seconds"].labels("coordinator", event.phase).observe(event.seconds)
            case NodeReported():
                self._observe_report(event)
            case RoundClosed():
                self._observe_round(event)
            case RunFinished():
                metrics["expected_end_timestamp_seconds"].set(self._clock())
            case _:
                self._observe_node(event)

    def _observe_told(self, event: Event) -> None:
        """Takes over what the event tells as it is."""
        # Where a round evaluates nothing, what was measured last stays.
        is_unmeasured = isinstance(event, RoundClosed) and event.accuracy_mean is None
        for metric in RUN_METRICS:
            if metric.told is not None and isinstance(event, metric.told.event):
                value = metric.told.read(event)
                if value is not None or not is_unmeasured:
                    _take(self._metrics[metric.name], metric.kind, value)
        figures = {
            metric.name.removeprefix("node_"): metric.told.read(event)
            for metric in NODE_METRICS
            if metric.told is not None and isinstance(event, metric.told.event)
        }
        if isinstance(event, NodeReported) and event.accuracy is None:
            figures = {name: value for name, value in figures.items() if value is not None}
        if isinstance(event, NodeReported | NodeClosed | NodeBudgeted) and figures:
            self.nodes.update(event.node_id, figures, family=getattr(event, "family", ""))

    def _observe_node(self, event: Event) -> None:
        match event:
            case ReplyDropped():
                self._metrics["nodes_dropped"].labels(event.reason).inc()
                self._num_dropped += event.reason != "late"
                self.nodes.count(event.node_id, "drops")
            case NodeLeft():
                self.forget_node(event.node_id)
            case UploadRefused():
                self._metrics["uploads_refused"].labels(event.reason).inc()

    def _begin(self, event: RunStarted) -> None:
        self.run_id, self._codec, self._quorum = event.run_id, event.codec, event.quorum
        self._num_rounds = event.num_rounds
        run = {"run_id": event.run_id, "scheme": event.scheme, "dataset": event.dataset}
        self._metrics["run"].info(run)
        for name in ("down_bytes", "up_bytes"):
            self._metrics[name].labels(self._codec)

    def _begin_phase(self, event: PhaseStarted) -> None:
        self._metrics["phase_active"].labels(event.phase).set(1)
        if event.round:
            self._metrics["round"].set(event.round)
        if event.phase != "round":
            return
        num_selected = event.total or 0
        self._num_dropped = 0
        self._losses.clear()
        self._choices.clear()
        self._metrics["round_start_timestamp_seconds"].set(self._clock())
        self._metrics["round_selected_nodes"].set(num_selected)
        self._metrics["round_answered_nodes"].set(0)
        self._num_needed = event.num_needed or math.ceil(round(self._quorum * num_selected, 6))
        self._metrics["round_quorum_nodes"].set(self._num_needed)

    def _observe_report(self, event: NodeReported) -> None:
        metrics = self._metrics
        metrics["down_bytes"].labels(self._codec).inc(event.bytes_down)
        metrics["up_bytes"].labels(self._codec).inc(event.bytes_up)
        for phase, seconds in event.phase_seconds.items():
            metrics["phase_seconds"].labels("node", phase).observe(seconds)
        if event.accuracy is not None:  # else the last that was measured stays
            self._accuracies[event.node_id] = (event.family, event.accuracy)
        for name, loss in (
            ("distillation_loss", event.distillation_loss),
            ("private_loss", event.private_loss),
        ):
            if loss is not None:
                self._losses.setdefault(name, {}).setdefault(event.family, []).append(loss)
        for name, chosen in (("temperature", event.temperature), ("lambda_ratio", event.distill_lambda)):
            if chosen is not None:
                self._choices.setdefault(name, []).append(chosen)
        self.nodes.update(event.node_id, {"last_seen_timestamp_seconds": self._clock()}, family=event.family)

    def _observe_round(self, event: RoundClosed) -> None:
        metrics = self._metrics
        now = self._clock()
        self._round_seconds.append(event.seconds)
        left = max(0, self._num_rounds - event.round)
        metrics["round"].set(event.round)
        metrics["round_end_timestamp_seconds"].set(now)
        metrics["expected_end_timestamp_seconds"].set(now + left * statistics.median(self._round_seconds))
        # Each other node that was not used has told so by an event of its own.
        num_unanswered = max(0, event.num_dropped - self._num_dropped)
        metrics["nodes_dropped"].labels("unanswered").inc(num_unanswered)
        for reason, num_nodes in event.num_rested.items():
            metrics["nodes_rested"].labels(reason).inc(num_nodes)
        metrics["closed_round_quorum_nodes"].set(self._num_needed)
        for name, chosen in self._choices.items():
            metrics[name].set(statistics.fmean(chosen))
        for name, families in self._losses.items():
            for family, losses in families.items():
                metrics[name].labels(family).set(statistics.fmean(losses))
        self._show_percentiles()

    def _show_percentiles(self) -> None:
        families: dict[str, list[float]] = {}
        for family, accuracy in self._accuracies.values():
            families.setdefault(family, []).append(accuracy)
        if self._accuracies:
            families[ALL_FAMILIES] = [accuracy for _, accuracy in self._accuracies.values()]
        gauge = self._metrics["fleet_accuracy_ratio"]
        for family in self._shown_families - families.keys():
            for percentile in PERCENTILES:
                gauge.remove(family, str(percentile))
        self._shown_families = set(families)
        for family, accuracies in families.items():
            for percentile, value in zip(PERCENTILES, np.percentile(accuracies, PERCENTILES), strict=True):
                gauge.labels(family, str(percentile)).set(float(value))

    def observe_call(self, method: str, code: str, seconds: float, num_bytes: int) -> None:
        """Takes one finished call to the label service.

        Args:
            method: The method's name.
            code: gRPC status, as "OK".
            seconds: Duration.
            num_bytes: Payload that the call moved.
        """
        with self._lock:
            if method not in self._methods and len(self._methods) >= MAX_METHODS:
                method = "other"
            self._methods.add(method)
        self._metrics["grpc_calls"].labels(method, code).inc()
        self._metrics["grpc_bytes"].labels(method).inc(num_bytes)
        self._metrics["grpc_call_seconds"].labels(method).observe(seconds)

    def forget_node(self, node_id: str) -> None:
        """Drops the series of a node that left; an unknown node is no error."""
        self.nodes.forget(node_id)
        self._accuracies.pop(node_id, None)

    def render_nodes(self) -> bytes:
        """Renders the per-node series in Prometheus' text format 0.0.4."""
        return self.nodes.render().encode()

    def write(self, path: Path) -> None:
        """Writes the values as they are now, nodes included, as an OpenMetrics file."""
        aggregates: str = generate_latest(self.registry).decode()  # type: ignore[no-untyped-call]
        # OpenMetrics names a family of counters without the ending of its samples.
        nodes = self.nodes.render().replace("fedstill_node_drops_total Rep", "fedstill_node_drops Rep")
        nodes = nodes.replace("fedstill_node_drops_total counter", "fedstill_node_drops counter")
        write_text_atomically(path, aggregates.removesuffix("# EOF\n") + nodes + "# EOF\n")


def _declare(metric: Metric, registry: CollectorRegistry) -> Any:
    name, labels = f"fedstill_{metric.name}", metric.labels
    match metric.kind:
        case "info":
            return Info(name, metric.text, registry=registry)
        case "histogram":
            return Histogram(name, metric.text, labels, registry=registry, buckets=metric.buckets)
        case "counter":
            counter = Counter(name, metric.text, labels, registry=registry)
            for value in metric.values:
                counter.labels(value)
            return counter
    gauge = Gauge(name, metric.text, labels, registry=registry)
    if not labels:
        gauge.set(math.nan)
    return gauge


def _take(metric: Any, kind: Kind, value: float | None) -> None:
    if kind == "gauge":
        metric.set(math.nan if value is None else value)
    elif value is not None:
        (metric.inc if kind == "counter" else metric.observe)(value)
