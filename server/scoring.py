"""Figures computed from predictions: accuracy, agreement, calibration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.files import atomic_path

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
    teacher_validation_accuracy: float | None = None


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
    error = 0.0
    for index in range(num_bins):
        inside = bins_S == index
        if inside.any():
            error += inside.mean() * abs(correct_S[inside].mean() - confidence_S[inside].mean())
    return float(error)


def write_predictions(
    path: Path, classes_S: np.ndarray, confidences_S: np.ndarray, fp32_classes_S: np.ndarray
) -> None:
    """Writes one node's predictions on the evaluation set, in its order, as a structured `.npy`."""
    table = np.empty(len(classes_S), PREDICTION_TYPE)
    table["class"], table["confidence"], table["fp32_class"] = classes_S, confidences_S, fp32_classes_S
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, table, allow_pickle=False)
