"""Which public samples a node should speak about: those that lie where its own data lies.

Reference: EdgeFD 2025, arXiv:2508.14769 (k-means density-ratio estimation). There and here a
sample is in the node's distribution if it is as near to one of the clusters of the node's
private data as that data itself is; we take the distance that a quantile of the private samples
keeps, in the feature space of the node's own student.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]
NUM_ITERATIONS = 25


def find_clusters(features_SD: Features, *, num_clusters: int, rng: np.random.Generator) -> Features:
    """Clusters samples by k-means, begun by k-means++ (Arthur & Vassilvitskii 2007).

    Args:
        features_SD: Samples (S, D), at least one.
        num_clusters: Clusters wanted; no more than there are distinct samples.
        rng: Source of the beginning.

    Returns:
        Centres (K, D), K ≤ num_clusters.
    """
    centres = [features_SD[rng.integers(len(features_SD))]]
    while len(centres) < num_clusters:
        squares_S = squared_distances(features_SD, np.stack(centres)).min(axis=1).astype(np.float64)
        if not squares_S.sum():
            break
        centres.append(features_SD[rng.choice(len(features_SD), p=squares_S / squares_S.sum())])
    centres_KD = np.stack(centres)
    for _ in range(NUM_ITERATIONS):
        nearest_S = squared_distances(features_SD, centres_KD).argmin(axis=1)
        moved = np.stack(
            [
                features_SD[nearest_S == index].mean(axis=0) if (nearest_S == index).any() else centre
                for index, centre in enumerate(centres_KD)
            ]
        )
        if np.array_equal(moved, centres_KD):
            break
        centres_KD = moved
    return centres_KD.astype(np.float32)


def squared_distances(features_SD: Features, centres_KD: Features) -> Features:
    """Computes squared Euclidean distances (S, K)."""
    cross_SK = features_SD @ centres_KD.T
    squares_S, squares_K = (features_SD**2).sum(axis=1), (centres_KD**2).sum(axis=1)
    distances: Features = np.maximum(squares_S[:, None] - 2 * cross_SK + squares_K, 0).astype(np.float32)
    return distances


def choose_shared(
    private_SD: Features,
    public_SD: Features,
    *,
    num_clusters: int,
    quantile: float,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Chooses the public samples that lie inside a node's own distribution.

    Args:
        private_SD: Features of the node's training samples (S, D), at least one.
        public_SD: Features of the public samples (P, D).
        num_clusters: Modes that the private data may have.
        quantile: Share of the private samples that are near enough by definition, (0, 1].
        rng: Source of the clusters' beginning.

    Returns:
        bool (P,): true where the node's logits are worth sharing; the nearest sample in any case.
    """
    # Every feature counts alike, whatever its scale.
    mean_D, std_D = private_SD.mean(axis=0), private_SD.std(axis=0) + 1e-6
    private, public = (private_SD - mean_D) / std_D, (public_SD - mean_D) / std_D
    centres_KD = find_clusters(private, num_clusters=num_clusters, rng=rng)
    own_S = squared_distances(private, centres_KD).min(axis=1)
    found_P = squared_distances(public, centres_KD).min(axis=1)
    chosen: NDArray[np.bool_] = found_P <= np.quantile(own_S, quantile)
    chosen[found_P.argmin()] = True
    return chosen
