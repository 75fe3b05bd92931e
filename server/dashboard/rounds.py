"""From the lines of `rounds.jsonl` to what the page draws: rounds as aggregates, nodes as rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# One row per node and round, kept for its page.
HISTORY = (
    "round",
    "accuracy",
    "fp32_accuracy",
    "private_accuracy",
    "agreement_ratio",
    "distillation_loss",
    "private_loss",
    "artefact_bytes",
    "bytes_down",
    "bytes_up",
    "seconds",
)
_REPORTED = HISTORY[1:-1]
# The columns of the table of nodes, in the order of the cells of a row.
NODE_COLUMNS = (
    "node_id",
    "family",
    "num_train_samples",
    "accuracy",
    "change",
    "fp32_accuracy",
    "local_accuracy",
    "private_accuracy",
    "agreement_ratio",
    "distillation_loss",
    "artefact_bytes",
    "fp32_bytes",
    "latency_seconds",
    "bytes_down",
    "bytes_up",
    "public_sample_bytes",
    "num_rounds",
    "last_round",
    "num_drops",
    "num_resets",
    "rests_until",
    "num_flipped",
)
DETAILS = (
    "ece",
    "num_parameters",
    "worst_recall",
    "worst_recall_change",
    "agreement_chance_ratio",
    "private_validation_accuracy",
    "validation_accuracy",
    "student_digest",
    "artefact_digest",
    "num_steps",
    "num_shared_rows",
    "phase_seconds",
)
# What a node's artefact says of it.
EVALUATED = (
    "accuracy",
    "fp32_accuracy",
    "private_accuracy",
    "agreement_ratio",
    "agreement_chance_ratio",
    "artefact_bytes",
    "artefact_digest",
    "num_flipped",
    "ece",
    "worst_recall",
    "worst_recall_change",
    "private_validation_accuracy",
    "validation_accuracy",
)
CONCLUDED = (
    "num_private_test",
    "local_private_accuracy",
    "teacher_latency_seconds_batch1",
    "evaluation_bytes",
    "artefact_upload_bytes",
    "artefact_path",
    "quality",
)


@dataclass
class NodeView:
    """One node: the figures of its newest round, sums over its rounds, and its history."""

    node_id: str
    events: deque[dict[str, Any]]
    family: str = ""
    num_train_samples: int | None = None
    latency_seconds: float | None = None
    newest: Mapping[str, Any] = field(default_factory=dict)
    history: list[list[Any]] = field(default_factory=list)
    bytes_down: int = 0
    bytes_up: int = 0
    public_sample_bytes: int = 0
    num_drops: int = 0
    num_resets: int = 0
    rests_until: int = 0
    details: dict[str, Any] = field(default_factory=dict)

    def take(self, number: int, report: Mapping[str, Any]) -> None:
        """Takes the node's line of a committed round."""
        is_evaluated = report.get("accuracy") is not None
        # In a round without evaluation the node is shown as it was measured last.
        kept = () if is_evaluated else EVALUATED
        self.newest = {**report, **{name: self.newest[name] for name in kept if name in self.newest}}
        self.family = str(report.get("family") or self.family)
        self.bytes_down += report.get("bytes_down") or 0
        self.bytes_up += report.get("bytes_up") or 0
        self.public_sample_bytes += report.get("public_sample_bytes") or 0
        self.num_resets += bool(report.get("state_reset"))
        seconds = sum((report.get("phase_seconds") or {}).values())
        # Shortened when somebody asks: a thousand nodes times fifty rounds are read at once.
        self.history.append([number, *map(report.get, _REPORTED), seconds])

    def tell_history(self) -> list[list[Any]]:
        """Writes its rounds, with the cells of `HISTORY`."""
        return [[_shorten(value) for value in row] for row in self.history]

    def tell_details(self) -> dict[str, Any]:
        """Writes what stands on its page alone."""
        return {name: self.newest[name] for name in DETAILS if name in self.newest} | self.details

    def conclude(self, summary: Mapping[str, Any]) -> None:
        """Takes the node's part of `summary.json`, which has the last word."""
        self.family = summary.get("family") or self.family
        self.num_train_samples = summary.get("num_train_samples")
        self.latency_seconds = summary.get("latency_seconds_batch1")
        for name in ("bytes_down", "bytes_up", "public_sample_bytes"):
            setattr(self, name, summary.get(name) or 0)
        self.newest = {**self.newest, **{name: summary.get(name) for name in NODE_COLUMNS if name in summary}}
        self.details |= {name: summary.get(name) for name in (*CONCLUDED, *DETAILS) if name in summary}
        self.details["local_accuracy"] = summary.get("local_accuracy")


def tell_node(node: NodeView) -> list[Any]:
    """Writes a node's row, with the cells of `NODE_COLUMNS`."""
    history = node.history
    own = {
        "node_id": node.node_id,
        "family": node.family,
        "num_train_samples": node.num_train_samples,
        "change": _subtract(history[-1][1], history[-2][1]) if len(history) > 1 else None,
        "local_accuracy": node.details.get("local_accuracy"),
        "latency_seconds": node.latency_seconds,
        "bytes_down": node.bytes_down,
        "bytes_up": node.bytes_up,
        "public_sample_bytes": node.public_sample_bytes,
        "num_rounds": len(history),
        "last_round": history[-1][0] if history else None,
        "num_drops": node.num_drops,
        "num_resets": node.num_resets,
        "rests_until": node.rests_until,
    }
    return [_shorten(own.get(name, node.newest.get(name))) for name in NODE_COLUMNS]


def account_round(entry: Mapping[str, Any], reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sums one committed round up.

    Args:
        entry: Its line in `rounds.jsonl`.
        reports: The lines of its nodes.

    Returns:
        Counts, percentiles of accuracy in [0, 1], mean losses in nats, sums of bytes, seconds.
    """
    accuracies = _known(reports, "accuracy")
    p5, p50, p95 = np.percentile(accuracies, [5, 50, 95]) if accuracies else (None, None, None)
    kept = (
        "round",
        "accuracy_mean",
        "gap",
        "num_sampled",
        "num_replied",
        "num_dropped",
        "num_late",
        "seconds",
    )
    found = {name: _shorten(entry.get(name)) for name in kept}
    return found | {
        "num_rested": entry.get("num_rested") or {},
        "label_set_id": entry.get("label_set_id"),
        "p5": _shorten(p5),
        "p50": _shorten(p50),
        "p95": _shorten(p95),
        "worst": _shorten(min(accuracies, default=None)),
        "fp32_accuracy": _mean(reports, "fp32_accuracy"),
        "private_accuracy": _mean(reports, "private_accuracy"),
        "distillation_loss": _mean(reports, "distillation_loss"),
        "private_loss": _mean(reports, "private_loss"),
        "bytes_down": sum(_known(reports, "bytes_down")),
        "bytes_up": sum(_known(reports, "bytes_up")),
        "public_sample_bytes": sum(_known(reports, "public_sample_bytes")),
        "wire_bytes": sum(_known(reports, "wire_bytes")),
        "fedavg_bytes": 2 * sum(_known(reports, "fp32_bytes")),
        "num_resets": sum(bool(report.get("state_reset")) for report in reports),
    }


def _known(reports: Iterable[Mapping[str, Any]], name: str) -> list[float]:
    return [report[name] for report in reports if isinstance(report.get(name), int | float)]


def _mean(reports: Iterable[Mapping[str, Any]], name: str) -> float | None:
    values = _known(reports, name)
    return _shorten(float(np.mean(values))) if values else None


def _subtract(first: Any, second: Any) -> float | None:
    return None if first is None or second is None else float(first - second)


def _shorten(value: Any) -> Any:
    # Six digits are more than a page shows; a thousand nodes' rows shrink by half.
    return float(f"{value:.6g}") if isinstance(value, float) else value
