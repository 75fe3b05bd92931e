"""Figures computed from predictions: accuracy, agreement, calibration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from fedstill.common.files import atomic_path

PREDICTION_TYPE = np.dtype([("class", "<u2"), ("confidence", "<f4"), ("fp32_class", "<u2")])


@dataclass(frozen=True)
class Truth:
    """What only the coordinator knows of the sets that nodes predict on.

    `evaluation_S` and `validation_S` are classes (S,), int64; teacher predictions are
    None where the scheme has no teacher.
    """

    evaluation_S: np.ndarray
    validation_S: np.ndarray
    num_classes: int
    teacher_evaluation_S: np.ndarray | None = None
    teacher_hits_S: np.ndarray | None = None
    """Which samples of the validation part the teacher classifies rightly, bool (S,)."""


@dataclass(frozen=True)
class TeacherFacts:
    """The teacher as the summary shows it; accuracies are ratios, None where labels came without a model."""

    model: str
    accuracy: float | None
    initial_accuracy: float | None
    validation_accuracy: float | None
    num_parameters: int | None
    size_bytes: int | None
    digest: str
    num_server_samples: int
    num_epochs: int
    latency_seconds_batch1: float | None


def measure_accuracy(predicted_S: np.ndarray, true_S: np.ndarray) -> float:
    """Computes the share of samples whose predicted class is the true one."""
    return float(np.mean(predicted_S == true_S))


def calibration_error(
    predicted_S: np.ndarray, confidence_S: np.ndarray, true_S: np.ndarray, *, num_bins: int = 15
) -> float:
    """Computes the expected calibration error.

    Args:
        predicted_S: Predicted classes (S,).
        confidence_S: Probability of the predicted class (S,), in [0, 1].
        true_S: True classes (S,).
        num_bins: Bins of equal width.

    Returns:
        Mean distance between confidence and accuracy, weighted by bin size, in [0, 1].

    Reference:
        Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599.
    """
    correct_S = predicted_S == true_S
    bins_S = np.clip(np.ceil(confidence_S * num_bins).astype(int) - 1, 0, num_bins - 1)
    sizes = np.bincount(bins_S, minlength=num_bins)
    hits = np.bincount(bins_S[correct_S], minlength=num_bins)
    by_bin_S = confidence_S[np.argsort(bins_S, kind="stable")]
    error, start = 0.0, 0
    for size, num_hits in zip(sizes.tolist(), hits.tolist(), strict=True):
        if size:
            confidence = float(by_bin_S[start : start + size].mean())
            error += size / len(bins_S) * abs(num_hits / size - confidence)
            start += size
    return float(error)


def recall_by_class(predicted_S: np.ndarray, true_S: np.ndarray, *, num_classes: int) -> np.ndarray:
    """Computes the share of each class's samples that are predicted as it.

    Args:
        predicted_S: Predicted classes (S,).
        true_S: True classes (S,).
        num_classes: Classes that there are.

    Returns:
        Recall (C,), float64, in [0, 1]; nan where a class has no samples.
    """
    totals_C = np.bincount(true_S, minlength=num_classes)
    hits_C = np.bincount(true_S[predicted_S == true_S], minlength=num_classes)
    recall_C: np.ndarray = np.where(totals_C > 0, hits_C / np.maximum(totals_C, 1), np.nan)
    return recall_C


def chance_agreement(one_S: np.ndarray, other_S: np.ndarray, *, num_classes: int) -> float:
    """Computes how often two predictors would agree that only share their class frequencies.

    It is the floor beside a measured agreement: what a model that has learned nothing but
    how frequent the classes are would reach.

    Args:
        one_S: Predicted classes (S,) of one model.
        other_S: Those of another.
        num_classes: Classes that there are.

    Returns:
        Σ_c p(c)·q(c), in [0, 1].

    Reference:
        Cohen 1960, "A Coefficient of Agreement for Nominal Scales".
    """
    frequencies = [np.bincount(part, minlength=num_classes) / max(len(part), 1) for part in (one_S, other_S)]
    return float(frequencies[0] @ frequencies[1])


class CompressionChange(TypedDict):
    """What compression changed in a student's predictions; see `describe_compression`."""

    num_flipped: int
    worst_recall: float
    worst_recall_change: float


def describe_compression(
    classes_S: np.ndarray, fp32_classes_S: np.ndarray, true_S: np.ndarray, *, num_classes: int
) -> CompressionChange:
    """Says what compression changed in a student's predictions.

    Args:
        classes_S: The artefact's predicted classes (S,).
        fp32_classes_S: Those of the student before compression.
        true_S: True classes (S,).
        num_classes: Classes that there are.

    Returns:
        `num_flipped` samples whose class changed; `worst_recall` of a class; and
        `worst_recall_change`, the largest fall of a class's recall (0 or negative where one fell).

    Reference:
        Hooker et al. 2019, "What Do Compressed Deep Neural Networks Forget?", arXiv:1911.05248.
    """
    recall_C = recall_by_class(classes_S, true_S, num_classes=num_classes)
    change_C = recall_C - recall_by_class(fp32_classes_S, true_S, num_classes=num_classes)
    return {
        "num_flipped": int(np.sum(classes_S != fp32_classes_S)),
        "worst_recall": float(np.nanmin(recall_C)),
        "worst_recall_change": float(np.nanmin(change_C)),
    }


def write_predictions(
    path: Path, classes_S: np.ndarray, confidences_S: np.ndarray, fp32_classes_S: np.ndarray
) -> None:
    """Writes one node's predictions on the evaluation set, in its order, as a structured `.npy`."""
    table = np.empty(len(classes_S), PREDICTION_TYPE)
    table["class"], table["confidence"], table["fp32_class"] = classes_S, confidences_S, fp32_classes_S
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, table, allow_pickle=False)
