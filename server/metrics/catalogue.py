"""Every metric that FedStill exports, in one table.

`RunMetrics` registers what stands here and `deploy/prometheus/METRICS.md` is written
from it (`python -m fedstill.server.metrics`), so a name, a label or a unit has one home.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from fedstill.server.run.events import (
    DROP_REASONS,
    LabelsPublished,
    NodeBudgeted,
    NodeClosed,
    NodeReported,
    PrivacySpent,
    RoundClosed,
    RunStarted,
    TeacherReady,
    Warned,
)

E = TypeVar("E")

Kind = Literal["counter", "gauge", "histogram", "info"]

# A phase takes from milliseconds (labels found in the store) to hours (training a teacher).
PHASE_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000)
CALL_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
ARTEFACT_BUCKETS = tuple(float(4**power * 1024) for power in range(11))
LATENCY_BUCKETS = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1)

PERCENTILES = (5, 50, 95)
REFUSAL_REASONS = ("damaged", "forbidden", "internal", "invalid", "non_finite", "storage")


@dataclass(frozen=True)
class Told:
    """Where a value comes from: the event that tells it, and what it says."""

    event: type
    read: Callable[[Any], float | None]


def told(event: type[E], read: Callable[[E], float | None]) -> Told:
    """Takes a metric's value from an event; None is a value that nobody knows."""
    return Told(event, read)


@dataclass(frozen=True)
class Metric:
    """One metric family.

    Attributes:
        name: Without the prefix `fedstill_`, and without the `_total` of counters.
        kind: Prometheus' type.
        text: What it says, with its unit where the name has none.
        labels: Names of its labels.
        values: Values of its only label that exist from the start, at zero: without a
            first zero the first increase would be invisible to `increase()`.
        buckets: Upper bounds, where it is a histogram.
        told: What sets a gauge, adds to a counter or is counted in a histogram, where an event
            holds it as it is. What has labels of a run or more than one source, `RunMetrics` sets.
    """

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    told: Told | None = None

    @property
    def full_name(self) -> str:
        """The name as Prometheus has it."""
        ending = {"counter": "_total", "info": "_info"}.get(self.kind, "")
        return f"fedstill_{self.name}{ending}"


RUN_METRICS = (
    Metric("run", "info", "The run that this process coordinates.", ("run_id", "scheme", "dataset")),
    Metric(
        "nodes", "gauge", "Nodes of the federation.", told=told(RunStarted, lambda event: event.num_nodes)
    ),
    Metric("round", "gauge", "Round that is under way, or the last one."),
    Metric(
        "rounds_limit",
        "gauge",
        "Upper limit of rounds.",
        told=told(RunStarted, lambda event: event.num_rounds),
    ),
    Metric("phase_active", "gauge", "1 for a phase of the coordinator under way, else 0.", ("phase",)),
    Metric("round_start_timestamp_seconds", "gauge", "When the newest round began."),
    Metric("round_end_timestamp_seconds", "gauge", "When the newest committed round was committed."),
    Metric("expected_end_timestamp_seconds", "gauge", "When the last round will be over at this pace."),
    Metric(
        "round_deadline_seconds",
        "gauge",
        "Longest duration of a round; 0 is unlimited.",
        told=told(RunStarted, lambda event: event.deadline_seconds),
    ),
    Metric("round_selected_nodes", "gauge", "Nodes selected for the newest round."),
    Metric("round_answered_nodes", "gauge", "Answers that the newest round has so far, good or not."),
    Metric("round_quorum_nodes", "gauge", "Answers that close the newest round."),
    Metric(
        "closed_round_replied_nodes",
        "gauge",
        "Nodes whose replies the last committed round used.",
        told=told(RoundClosed, lambda event: event.num_replied),
    ),
    Metric("closed_round_quorum_nodes", "gauge", "Answers that would have closed the last committed round."),
    Metric(
        "teacher_accuracy_ratio",
        "gauge",
        "The teacher's, on the evaluation set.",
        told=told(TeacherReady, lambda event: event.accuracy),
    ),
    Metric(
        "teacher_bytes",
        "gauge",
        "Size of the teacher's fp32 weights.",
        told=told(TeacherReady, lambda event: event.size_bytes),
    ),
    Metric(
        "fleet_accuracy_mean_ratio",
        "gauge",
        "Mean over the last round's artefacts, on the evaluation set.",
        told=told(RoundClosed, lambda event: event.accuracy_mean),
    ),
    Metric(
        "fleet_accuracy_ratio",
        "gauge",
        "Percentiles over each node's newest artefact, on the evaluation set; family all is the whole fleet.",
        ("family", "percentile"),
    ),
    Metric(
        "fleet_gap_ratio",
        "gauge",
        "Teacher (as it is after the round) minus students, validation part.",
        told=told(RoundClosed, lambda event: event.gap),
    ),
    Metric("distillation_loss", "gauge", "Mean over the nodes of the last round, nats.", ("family",)),
    Metric("private_loss", "gauge", "Mean over the nodes of the last round, nats.", ("family",)),
    Metric(
        "temperature",
        "gauge",
        "Divides logits before softmax; the mean where nodes choose it.",
        told=told(RunStarted, lambda event: event.temperature),
    ),
    Metric(
        "lambda_ratio",
        "gauge",
        "Weight of the distillation loss, against private labels; the mean where nodes choose it.",
        told=told(RunStarted, lambda event: event.distill_lambda),
    ),
    Metric(
        "label_entropy_nats",
        "gauge",
        "Mean entropy of the published soft labels at the temperature.",
        told=told(LabelsPublished, lambda event: event.entropy_nats),
    ),
    Metric(
        "ensemble_teacher_kl_nats",
        "gauge",
        "Mean divergence of the teacher from the students' ensemble on the public set, at the temperature.",
        told=told(LabelsPublished, lambda event: event.ensemble_teacher_kl_nats),
    ),
    Metric(
        "nodes_without_series", "gauge", "Nodes left out of /metrics/nodes by monitoring.max_node_series."
    ),
    Metric(
        "privacy_epsilon",
        "gauge",
        "Privacy budget spent by the node that spent most.",
        told=told(PrivacySpent, lambda event: event.epsilon),
    ),
    Metric("actors", "gauge", "Ray actors that are ready for work or at it; no value on other grids."),
    Metric("actor_restarts", "gauge", "Ray actors started again since the run began."),
    Metric("checkpoint_timestamp_seconds", "gauge", "When the newest checkpoint was written."),
    Metric("checkpoint_bytes", "gauge", "Size of the newest checkpoint."),
    Metric("disk_free_bytes", "gauge", "Free on the disk that holds the run folder."),
    Metric("disk_size_bytes", "gauge", "Size of the disk that holds the run folder."),
    Metric(
        "certificate_expiry_timestamp_seconds",
        "gauge",
        "When a certificate of exchange.certificates_dir ends.",
        ("certificate",),
    ),
    Metric("rounds_committed", "counter", "Rounds that were committed.", told=told(RoundClosed, lambda _: 1)),
    Metric(
        "nodes_selected",
        "counter",
        "Nodes selected, summed over rounds.",
        told=told(RoundClosed, lambda event: event.num_sampled),
    ),
    Metric(
        "nodes_replied",
        "counter",
        "Replies accepted, summed over rounds.",
        told=told(RoundClosed, lambda event: event.num_replied),
    ),
    Metric(
        "nodes_dropped",
        "counter",
        "Nodes whose reply was not used; one that was unanswered and comes late counts as both.",
        ("reason",),
        DROP_REASONS,
    ),
    Metric("nodes_rested", "counter", "Nodes left out of a round, summed over rounds.", ("reason",)),
    Metric(
        "state_resets",
        "counter",
        "Replies of nodes that had lost their student.",
        told=told(NodeReported, lambda event: event.state_reset),
    ),
    Metric("warnings", "counter", "Warnings that the run gave.", told=told(Warned, lambda _: 1)),
    Metric("down_bytes", "counter", "Labels and manifests, as each node alone would fetch them.", ("codec",)),
    Metric("up_bytes", "counter", "Reports and uploads of nodes.", ("codec",)),
    Metric(
        "public_sample_bytes",
        "counter",
        "Public samples, as each node alone would fetch them.",
        told=told(NodeReported, lambda event: event.public_sample_bytes),
    ),
    Metric(
        "wire_bytes",
        "counter",
        "What really crossed, with shared caches at work.",
        told=told(NodeReported, lambda event: event.wire_bytes),
    ),
    Metric(
        "uploads_refused",
        "counter",
        "Uploads that the label service refused.",
        ("reason",),
        REFUSAL_REASONS,
    ),
    Metric("grpc_calls", "counter", "Calls to the label service.", ("method", "code")),
    Metric("grpc_bytes", "counter", "Payload of calls to the label service.", ("method",)),
    Metric(
        "phase_seconds",
        "histogram",
        "Duration of phases, on the coordinator and on nodes.",
        ("side", "phase"),
        buckets=PHASE_BUCKETS,
    ),
    Metric(
        "artefact_bytes",
        "histogram",
        "Sizes of reported artefacts.",
        buckets=ARTEFACT_BUCKETS,
        told=told(NodeReported, lambda event: event.artefact_bytes or None),
    ),
    Metric(
        "artefact_latency_seconds",
        "histogram",
        "One sample through a node's artefact.",
        buckets=LATENCY_BUCKETS,
        told=told(NodeClosed, lambda event: event.latency_seconds_batch1),
    ),
    Metric(
        "grpc_call_seconds",
        "histogram",
        "Duration of calls to the label service.",
        ("method",),
        buckets=CALL_BUCKETS,
    ),
)


def _of_node(name: str, kind: Kind, text: str, told: Told | None = None) -> Metric:
    return Metric(f"node_{name}", kind, text, ("node_id", "family"), told=told)


NODE_METRICS = (
    _of_node(
        "accuracy_ratio",
        "gauge",
        "Accuracy of the node's artefact on the evaluation set.",
        told(NodeReported, lambda event: event.accuracy),
    ),
    _of_node(
        "private_accuracy_ratio",
        "gauge",
        "Accuracy of the artefact on the node's own test part, as the node says.",
        told(NodeReported, lambda event: event.private_accuracy),
    ),
    _of_node(
        "model_bytes",
        "gauge",
        "Size of the node's artefact, all files.",
        told(NodeReported, lambda event: event.artefact_bytes or None),
    ),
    _of_node(
        "fp32_bytes",
        "gauge",
        "Size of the node's student before compression.",
        told(NodeReported, lambda event: event.fp32_bytes),
    ),
    _of_node(
        "agreement_ratio",
        "gauge",
        "Share of the evaluation set on which artefact and teacher agree.",
        told(NodeReported, lambda event: event.agreement_ratio),
    ),
    _of_node(
        "last_round",
        "gauge",
        "Newest round whose reply from the node was accepted.",
        told(NodeReported, lambda event: event.round),
    ),
    _of_node("last_seen_timestamp_seconds", "gauge", "When the node's newest accepted reply came."),
    _of_node(
        "latency_seconds",
        "gauge",
        "One sample through the node's artefact, measured on the node.",
        told(NodeClosed, lambda event: event.latency_seconds_batch1),
    ),
    _of_node(
        "budget_bytes",
        "gauge",
        "Largest artefact that the node's device takes.",
        told(NodeBudgeted, lambda event: event.artefact_bytes),
    ),
    _of_node(
        "budget_latency_seconds",
        "gauge",
        "Longest time that the node's device may take for a sample.",
        told(NodeBudgeted, lambda event: event.latency_seconds),
    ),
    _of_node("drops", "counter", "Replies of the node that were not used."),
)

CATALOGUE = RUN_METRICS + NODE_METRICS


def render_table() -> str:
    """Writes the catalogue as the Markdown of METRICS.md."""
    lines = [
        "# Metrics",
        "",
        "Written by `python -m fedstill.server.metrics` from `server/metrics/catalogue.py`; a test compares",
        "it with what a run exports. Units stand in the names; ratios are within [0, 1]. A gauge that nobody",
        "has measured yet is `NaN`, or has no series where it has labels. A resumed run counts from zero",
        "again.",
        "",
        "Every run writes its endpoint to `RUN/metrics.address` and, where `monitoring.targets_dir` is set,",
        "to that folder for Prometheus' file discovery. There both stay after a run that was done until",
        "Prometheus has scraped its last values, or for 30 s; they also stay in `RUN/metrics.txt`",
        "(OpenMetrics).",
    ]
    for title, metrics in (("/metrics", RUN_METRICS), ("/metrics/nodes", NODE_METRICS)):
        lines += ["", f"## {title}", "", "| metric | type | labels | meaning |", "|---|---|---|---|"]
        for metric in metrics:
            labels = ", ".join(f"`{label}`" for label in metric.labels)
            lines.append(f"| `{metric.full_name}` | {metric.kind} | {labels} | {metric.text} |")
    return "\n".join(lines) + "\n"
