"""The figures that are compared: where each stands in a run's summary and which way is better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from fedstill.server.display.units import format_bytes, format_ratio, format_seconds
from fedstill.server.run.summary import Summary


@dataclass(frozen=True)
class Column:
    """One figure of a run."""

    title: str
    read: Callable[[Summary], float | None]
    write: Callable[[float | None], str]
    better: Literal["higher", "lower"] | None = None
    """None: shown and never judged."""


def _write_count(count: float | None) -> str:
    return "–" if count is None else f"{count:.3g}"


def _mean_over_nodes(field: str) -> Callable[[Summary], float | None]:
    def read(summary: Summary) -> float | None:
        values = [getattr(node, field) for node in summary.nodes]
        known = [value for value in values if value is not None]
        return fmean(known) if known else None

    return read


def _read_teacher(summary: Summary) -> float | None:
    return None if summary.teacher is None else summary.teacher.accuracy


def _read_teacher_validation(summary: Summary) -> float | None:
    return None if summary.teacher is None else summary.teacher.validation_accuracy


def _read_first_teacher(summary: Summary) -> float | None:
    return None if summary.teacher is None else summary.teacher.initial_accuracy


COLUMNS: dict[str, Column] = {
    "accuracy": Column("Accuracy", lambda run: run.fleet.accuracy_mean, format_ratio, "higher"),
    "private_accuracy": Column(
        "Private accuracy", lambda run: run.fleet.private_accuracy_mean, format_ratio, "higher"
    ),
    "worst_accuracy": Column("Worst node", lambda run: run.fleet.accuracy_min, format_ratio, "higher"),
    "local_accuracy": Column("Local control", lambda run: run.fleet.local_accuracy_mean, format_ratio),
    "local_private_accuracy": Column(
        "Local control, private", lambda run: run.fleet.local_private_accuracy_mean, format_ratio
    ),
    # Settings are chosen by these two, or the accuracies above would be of what was chosen by them.
    "validation_accuracy": Column(
        "Validation", _mean_over_nodes("validation_accuracy"), format_ratio, "higher"
    ),
    "private_validation_accuracy": Column(
        "Private validation", _mean_over_nodes("private_validation_accuracy"), format_ratio, "higher"
    ),
    "teacher_agreement": Column(
        "Agreement with the teacher", _mean_over_nodes("agreement_ratio"), format_ratio, "higher"
    ),
    "teacher_accuracy": Column("Teacher", _read_teacher, format_ratio),
    "teacher_validation_accuracy": Column("Teacher, validation", _read_teacher_validation, format_ratio),
    "teacher_initial_accuracy": Column("Teacher at first", _read_first_teacher, format_ratio),
    "bytes_down": Column("Down", lambda run: run.fleet.bytes_down, format_bytes, "lower"),
    "bytes_up": Column("Up", lambda run: run.fleet.bytes_up, format_bytes, "lower"),
    "label_bytes": Column(
        "Down and up", lambda run: run.fleet.bytes_down + run.fleet.bytes_up, format_bytes, "lower"
    ),
    "public_sample_bytes": Column("Public samples", lambda run: run.fleet.public_sample_bytes, format_bytes),
    "total_bytes": Column(
        "All with public samples",
        lambda run: run.fleet.bytes_down + run.fleet.bytes_up + run.fleet.public_sample_bytes,
        format_bytes,
        "lower",
    ),
    "wire_bytes_actual": Column(
        "Crossed the wire", lambda run: run.fleet.wire_bytes_actual, format_bytes, "lower"
    ),
    "artefact_bytes": Column("Artefact", lambda run: run.fleet.artefact_bytes_mean, format_bytes, "lower"),
    "num_rounds": Column("Rounds", lambda run: len(run.rounds), _write_count),
    # Not judged: runs stand side by side on one machine, and a resumed one began warm.
    "wall_seconds": Column("Time", lambda run: run.wall_seconds, format_seconds),
}


def read_figures(summary: Summary) -> dict[str, float | None]:
    """Reads all columns of a finished run."""
    return {name: column.read(summary) for name, column in COLUMNS.items()}
