"""How alike two models are inside: what they make of a sample, and where they look.

These figures take plain arrays. None says much alone: print beside it what a model with
random weights reaches, since some figures are high for any model of the same shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# Occlusion runs a model once per cell: 8 × 8 of an image, or as many stretches of a series.
MAX_CELLS = 64


def linear_cka(first_SD: np.ndarray, second_SE: np.ndarray) -> float:
    """Computes the linear centred kernel alignment of two sets of features.

    Args:
        first_SD: Features (S, D) of one model.
        second_SE: Features (S, E) of another on the same samples; E may differ from D.

    Returns:
        Similarity in [0, 1]; 1 where they differ by a rotation and a factor only, NaN where
        either does not vary. Fewer samples than features push it up: compare with the floor.

    Reference:
        Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited",
        arXiv:1905.00414, the biased estimator.
    """
    first_SD = _centre(first_SD)
    second_SE = _centre(second_SE)
    shared = np.linalg.norm(first_SD.T @ second_SE) ** 2
    scale = np.linalg.norm(first_SD.T @ first_SD) * np.linalg.norm(second_SE.T @ second_SE)
    return min(float(shared / scale), 1.0) if scale > 0 else math.nan


def _centre(features_SD: np.ndarray) -> np.ndarray:
    centred_SD = features_SD.astype(np.float64) - features_SD.mean(axis=0, dtype=np.float64)
    # Brought to one size first: squares of squares of tiny features would be lost.
    largest = np.abs(centred_SD).max(initial=0.0)
    noise = 1e-12 * np.abs(features_SD).max(initial=0.0)
    return centred_SD / largest if largest > noise else np.zeros_like(centred_SD)


@dataclass(frozen=True)
class SaliencyAgreement:
    """How far two models look at the same places."""

    cosine: float
    """Mean cosine of the maps, in [-1, 1]."""
    overlap: float
    """Mean share of one map's top decile that is in the other's, in [0, 1]; 0.1 by chance."""


def saliency_agreement(first_SP: np.ndarray, second_SP: np.ndarray) -> SaliencyAgreement:
    """Compares saliency maps sample by sample.

    Args:
        first_SP: Signed maps (S, P) of one model.
        second_SP: Signed maps (S, P) of another for the same samples and classes.

    Returns:
        Means over samples. The top decile goes by size without sign, one place at
        least; a map of zeros points nowhere and agrees with nothing.
    """
    norms_S = np.linalg.norm(first_SP, axis=1) * np.linalg.norm(second_SP, axis=1)
    dots_S = (first_SP * second_SP).sum(axis=1)
    cosine_S = np.clip(np.divide(dots_S, norms_S, out=np.zeros_like(dots_S), where=norms_S > 0), -1, 1)
    num_top = math.ceil(first_SP.shape[1] / 10)
    both_SP = _top(first_SP, num_top) & _top(second_SP, num_top)
    return SaliencyAgreement(float(cosine_S.mean()), float(both_SP.sum(axis=1).mean() / num_top))


def _top(map_SP: np.ndarray, num_top: int) -> np.ndarray:
    size_SP = np.abs(map_SP)
    order_SK = np.argsort(-size_SP, axis=1, kind="stable")[:, :num_top]
    top_SP = np.zeros(map_SP.shape, bool)
    np.put_along_axis(top_SP, order_SK, values=True, axis=1)
    marked_SP: np.ndarray = top_SP & (size_SP > 0)
    return marked_SP


def divide_sample(sample_shape: tuple[int, ...], layout: str) -> np.ndarray:
    """Divides a sample into the cells that occlusion covers one by one.

    Args:
        sample_shape: Shape of one sample.
        layout: Names of its axes: H height, W width, T time, C channel, F feature.

    Returns:
        The cell of each value, int64, shaped like a sample: a grid over height and width,
        stretches of time, or features; 64 cells at most, all channels of a place in one.
    """
    axes = [axis for axis, name in enumerate(layout) if name in "HWT"] or list(range(len(layout)))
    per_axis = round(MAX_CELLS ** (1 / len(axes)))
    cells = np.zeros(sample_shape, np.int64)
    for axis in axes:
        size = sample_shape[axis]
        num_parts = min(size, per_axis)
        part = np.arange(size) * num_parts // size
        cells = cells * num_parts + part.reshape([-1 if other == axis else 1 for other in range(len(layout))])
    return cells


def occlusion_saliency(
    predict: Callable[[np.ndarray], np.ndarray],
    x_S: np.ndarray,
    classes_S: np.ndarray,
    *,
    cells: np.ndarray,
    blank: np.ndarray,
) -> np.ndarray:
    """Measures how much each cell of a sample speaks for a class.

    Covering a cell needs predictions only. So an integer graph, which has no gradients, is
    asked the same question as the models that have.

    Args:
        predict: From raw samples (B, *sample_shape) to logits (B, C).
        x_S: Raw samples (S, *sample_shape).
        classes_S: The class whose saliency is measured (S,), integers.
        cells: Cell of each value, from `divide_sample`.
        blank: What covers a value, of the samples' type; broadcasts to a sample's shape.

    Returns:
        Fall of the class's logit, less the mean fall of all classes, when a cell is
        covered (S, P), float64.

    Reference:
        Zeiler and Fergus 2013, arXiv:1311.2901, section 4.2; we take logits less their
        mean, since probabilities of a certain model hardly move.
    """
    num_cells = int(cells.max()) + 1
    whole_S = _pick(predict(x_S), classes_S)
    saliency_SP = np.empty((len(x_S), num_cells))
    for cell in range(num_cells):
        covered_S = np.where(cells == cell, blank, x_S)
        saliency_SP[:, cell] = whole_S - _pick(predict(covered_S), classes_S)
    return saliency_SP


def _pick(logits_SC: np.ndarray, classes_S: np.ndarray) -> np.ndarray:
    exact_SC = logits_SC.astype(np.float64)
    picked: np.ndarray = exact_SC[np.arange(len(classes_S)), classes_S] - exact_SC.mean(axis=1)
    return picked
