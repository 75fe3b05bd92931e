"""What the command works on, and what it finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from fedstill.common.datasets import Dataset
from fedstill.common.encoders import Encoder
from fedstill.common.models import InputSpec


@dataclass(frozen=True)
class Budget:
    """What every plan, and the control, may be trained for."""

    num_epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    loss: str = "kl"
    temperature: float = 4.0
    distill_lambda: float = 0.9


@dataclass(frozen=True, eq=False)
class Material:
    """The data, cut: training part, validation part that chooses, test part that is reported."""

    dataset: Dataset
    spec: InputSpec
    encoder: Encoder | None
    train: np.ndarray
    validation: np.ndarray
    """Indices into the data's training part."""
    calibration_S: np.ndarray
    digest: str

    @property
    def x_train(self) -> np.ndarray:
        """Raw samples that models are trained on."""
        samples: np.ndarray = self.dataset.x_train[self.train]
        return samples

    @property
    def y_train(self) -> np.ndarray:
        """Their classes."""
        labels: np.ndarray = self.dataset.y_train[self.train]
        return labels


class Row(BaseModel):
    """One plan, measured on its artefact."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: Literal["given", "control", "plan"]
    plan: dict[str, object]
    method: str
    """What its manifest says was done."""
    speeds_up: bool
    """False: it shrinks storage and wire only."""
    runtime: str
    validation_accuracy: float
    accuracy: float
    """On the data's test part."""
    agreement: float
    """Share of the test part where it says what the given model says."""
    num_parameters: int
    macs: int | None
    """Multiply-accumulates of one prediction; None where there is a graph only."""
    model_bytes: int
    artefact_bytes: int
    """All files of the artefact, the manifest too."""
    peak_memory_bytes: int | None
    """What it adds to a fresh process at its peak; None where the system does not tell."""
    train_seconds: float
    artefact: str
    """Its folder, relative to that of the front."""
    digest: str
    latency_seconds_batch1: float | None = None
    latency_seconds_batch64: float | None = None
    on_front: bool = False


class Front(BaseModel):
    """`front.json`: all rows, and against what they stand."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = 1
    model: str
    model_digest: str
    data: str
    data_digest: str
    seed: int
    budget: dict[str, object]
    num_train: int
    num_validation: int
    num_test: int
    host: str
    num_threads: int = 1
    latency: str = "median seconds in one process, 1 thread, batch 1 and batch 64"
    chosen_by: str = "validation_accuracy, artefact_bytes, latency_seconds_batch1"
    notes: list[str]
    rows: list[Row]


def find_front(rows: Sequence[Row]) -> list[Row]:
    """Marks the rows that no other beats.

    Args:
        rows: Measured rows.

    Returns:
        The same, in order, with `on_front`: a row is on it if no other is at least as
        accurate on the validation part, as small and as fast at batch 1, and better in one.
    """
    points = [
        (-row.validation_accuracy, float(row.artefact_bytes), row.latency_seconds_batch1 or 0.0)
        for row in rows
    ]
    return [
        row.model_copy(update={"on_front": not any(_beats(other, point) for other in points)})
        for row, point in zip(rows, points, strict=True)
    ]


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(mine <= its for mine, its in zip(one, other, strict=True))
