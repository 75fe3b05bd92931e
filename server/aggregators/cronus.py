"""A mean without the nodes that stretch the directions of highest variance.

Reference: Chang, Shejwalkar, Shokri, Houmansadr 2019, "Cronus: Robust and Heterogeneous
Collaborative Learning with Black-Box Knowledge Transfer", arXiv:1912.11279.
"""

from __future__ import annotations

import numpy as np

from fedstill.server.aggregators.aggregator import (
    Aggregated,
    Aggregator,
    AggregatorOptions,
    Doubles,
    Logits,
    Mask,
    aggregate_samples,
    log_mean,
    log_softmax,
)
from fedstill.server.aggregators.robust import spare_nodes

# Passes over the nodes; up to twenty nodes, at 20 %, are dropped one by one.
_NUM_PASSES = 4


def cronus(logits_NSC: Logits, *, present_NS: Mask, options: AggregatorOptions) -> Aggregated:
    """Averages the probabilities of the nodes that remain after filtering.

    Per sample the covariance of the nodes' soft labels is taken and the nodes that lie
    furthest from the median along its first eigenvector are dropped; again, until
    ⌊`trim_ratio`·n⌋ of n are gone.

    Args:
        logits_NSC: Logits (N, S, C), float32.
        present_NS: Which node answered which sample, bool (N, S).
        options: `trim_ratio` is the share of nodes to drop.

    Returns:
        Log-probabilities. Withstands as many colluding nodes as are dropped: up to 20 %
        by default, of the nodes that answered the sample.

    Reference:
        Chang et al. 2019, arXiv:1912.11279, by the filter of Diakonikolas et al. 2017,
        "Being Robust (in High Dimensions) Can Be Practical", arXiv:1703.00893. There
        the filter stops, and cuts, by tail bounds that a few dozen nodes cannot fill;
        here the share to drop is fixed, in four passes at most.
    """

    def rule(logits_NBC: Doubles, present_NB: Mask) -> Doubles:
        log_BNC = log_softmax(logits_NBC).swapaxes(0, 1)
        # Any fixed order that follows from the content alone: among ties, the order in
        # which nodes are listed would decide.
        order_BN1 = np.argsort(np.where(present_NB.T, _content_key(log_BNC), np.inf), axis=1)[..., None]
        log_BNC = np.take_along_axis(log_BNC, order_BN1, axis=1)
        kept_BN = np.take_along_axis(present_NB.T, order_BN1[..., 0], axis=1)
        kept_BN = _filter(np.exp(log_BNC), kept_BN, spare_nodes(kept_BN.sum(axis=1), options.trim_ratio))
        return log_mean(log_BNC.swapaxes(0, 1), kept_BN.T[..., None].astype(np.float64))

    return aggregate_samples(logits_NSC, present_NS, rule)


def _content_key(log_BNC: Doubles) -> Doubles:
    key: Doubles = np.exp(log_BNC) @ np.cos(np.arange(1.0, log_BNC.shape[-1] + 1))
    return key


def _filter(probability_BNC: Doubles, kept_BN: Mask, budget_B: np.ndarray) -> Mask:
    for remaining in range(_NUM_PASSES, 0, -1):
        drop_B = -(-budget_B // remaining)
        if not drop_B.any():
            continue
        along_BN = np.where(kept_BN, _project(probability_BNC, kept_BN), np.nan)
        deviation_BN = np.abs(along_BN - np.nanmedian(along_BN, axis=1, keepdims=True))
        furthest_BN = np.argsort(np.where(kept_BN, -deviation_BN, np.inf), axis=1, kind="stable")
        kept_BN = kept_BN & (np.argsort(furthest_BN, axis=1) >= drop_B[:, None])
        budget_B = budget_B - drop_B
    return kept_BN


def _project(probability_BNC: Doubles, kept_BN: Mask) -> Doubles:
    # Along the first eigenvector of the covariance, up to a factor, from whichever of
    # its two Gram matrices is the smaller.
    kept_BN1 = kept_BN[..., None]
    mean_B1C = (probability_BNC * kept_BN1).sum(axis=1, keepdims=True) / kept_BN1.sum(axis=1, keepdims=True)
    centred_BNC = (probability_BNC - mean_B1C) * kept_BN1
    num_nodes, num_classes = centred_BNC.shape[1:]
    if num_nodes <= num_classes:
        return np.linalg.eigh(centred_BNC @ centred_BNC.swapaxes(1, 2)).eigenvectors[..., -1]
    direction_BC = np.linalg.eigh(centred_BNC.swapaxes(1, 2) @ centred_BNC).eigenvectors[..., -1]
    projected: Doubles = (centred_BNC @ direction_BC[..., None])[..., 0]
    return projected


BUILT_IN: dict[str, Aggregator] = {"cronus": cronus}
