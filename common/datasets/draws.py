"""Seeded draws of samples: stratified by class, or by whole groups."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedstill.common.datasets.records import Array
from fedstill.common.partitioners import Indices, sort_groups


def draw_stratified(labels_S: NDArray[np.int64], num_drawn: int, rng: np.random.Generator) -> Indices:
    """Draws samples with the classes in their proportions.

    Args:
        labels_S: Classes.
        num_drawn: How many to draw, at most S.
        rng: Source of randomness.

    Returns:
        Sorted indices; each class is there in its share, rounded up or down.
    """
    allotted = _allot_by_class(labels_S, num_drawn, rng)
    drawn = [rng.permutation(np.flatnonzero(labels_S == label))[:num] for label, num in allotted]
    return np.sort(np.concatenate(drawn)) if drawn else np.empty(0, np.int64)


def draw_last_of_classes(labels_S: NDArray[np.int64], num_drawn: int, rng: np.random.Generator) -> Indices:
    """Takes the last samples of each class instead of random ones; else as `draw_stratified`."""
    allotted = _allot_by_class(labels_S, num_drawn, rng)
    members = [(np.flatnonzero(labels_S == label), num) for label, num in allotted]
    drawn = [indices[len(indices) - num :] for indices, num in members]
    return np.sort(np.concatenate(drawn)) if drawn else np.empty(0, np.int64)


def _allot_by_class(
    labels_S: NDArray[np.int64], num_drawn: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    # Largest remainders; among equal ones chance decides, or low classes would be favoured.
    classes, counts_C = np.unique(labels_S, return_counts=True)
    shares_C = num_drawn * counts_C / max(len(labels_S), 1)
    allotted_C = np.floor(shares_C).astype(np.int64)
    missing = num_drawn - int(allotted_C.sum())
    by_remainder = np.lexsort((rng.permutation(len(classes)), allotted_C - shares_C))
    allotted_C[by_remainder[:missing]] += 1
    return list(zip(classes.tolist(), allotted_C.tolist(), strict=True))


def draw_groups(groups_S: Array, num_drawn: int, rng: np.random.Generator) -> Indices:
    """Draws whole groups in random order, each if it brings the number of samples nearer.

    Args:
        groups_S: Group of each sample, as text.
        num_drawn: How many samples to come near to.
        rng: Source of randomness.

    Returns:
        Sorted indices of one group at least.
    """
    names = sort_groups(groups_S)
    chosen: list[str] = []
    total = 0
    for index in rng.permutation(len(names)):
        size = int(np.count_nonzero(groups_S == names[index]))
        if chosen and abs(total + size - num_drawn) >= abs(total - num_drawn):
            continue
        chosen.append(names[index])
        total += size
    return np.flatnonzero(np.isin(groups_S, chosen))


def complement(indices: Indices, num_samples: int) -> Indices:
    """Lists the samples that `indices` leaves, sorted."""
    mask = np.ones(num_samples, dtype=np.bool_)
    mask[indices] = False
    return np.flatnonzero(mask)
