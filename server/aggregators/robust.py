"""Aggregates that withstand colluding nodes.

Each promises it for up to 20 % of the nodes that answered a sample: among fewer than
five answers there is no such node to spare. What colluders then still choose is where
within the spread of the honest nodes the result lies.
"""

from __future__ import annotations

from collections.abc import Callable

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

# Weiszfeld converges linearly: most samples take 20 to 40 steps, some at a kink over a hundred.
_MAX_STEPS = 200
_TOLERANCE = 1e-7
_LEAST_DISTANCE = 1e-12

CountNodes = Callable[[np.ndarray], np.ndarray]


def median(logits_NSC: Logits, *, present_NS: Mask, options: AggregatorOptions) -> Aggregated:
    """Takes the median probability of each class, renormalised.

    Args:
        logits_NSC: Logits (N, S, C), float32.
        present_NS: Which node answered which sample, bool (N, S).
        options: Not used.

    Returns:
        Log-probabilities. The median lies among the honest nodes' as long as these are
        more than half; promised for up to 20 % colluding.

    Reference:
        Yin, Chen, Ramchandran, Bartlett 2018, "Byzantine-Robust Distributed Learning",
        arXiv:1803.01498, for gradients; here for soft labels.
    """
    del options
    return _mean_of_the_middle(logits_NSC, present_NS, lambda count_B: (count_B - 1) // 2)


def trimmed_mean(logits_NSC: Logits, *, present_NS: Mask, options: AggregatorOptions) -> Aggregated:
    """Averages each class's probabilities without the largest and the smallest, renormalised.

    Args:
        logits_NSC: Logits (N, S, C), float32.
        present_NS: Which node answered which sample, bool (N, S).
        options: Of n answers ⌊`trim_ratio`·n⌋ are cut off at each end.

    Returns:
        Log-probabilities. Withstands as many colluding nodes as are cut off: up to 20 %
        by default.

    Reference:
        Yin et al. 2018, arXiv:1803.01498, for gradients; here for soft labels.
    """
    return _mean_of_the_middle(
        logits_NSC, present_NS, lambda count_B: spare_nodes(count_B, options.trim_ratio)
    )


def geometric_median(logits_NSC: Logits, *, present_NS: Mask, options: AggregatorOptions) -> Aggregated:
    """Finds the soft labels whose summed Euclidean distance from the nodes' is the least.

    Args:
        logits_NSC: Logits (N, S, C), float32.
        present_NS: Which node answered which sample, bool (N, S).
        options: Not used.

    Returns:
        Log-probabilities: a mean of the nodes' in which the far ones weigh little. With a
        share a below half colluding it leaves the honest nodes' centre by 2(1−a)/(1−2a)
        times their radius at most; promised for up to 20 %.

    Reference:
        Weiszfeld 1937; Pillutla, Kakade, Harchaoui 2019, "Robust Aggregation for Federated
        Learning", arXiv:1912.13445, for weights; here for soft labels.
    """
    del options
    return aggregate_samples(logits_NSC, present_NS, _weiszfeld)


def spare_nodes(count_B: np.ndarray, ratio: float) -> np.ndarray:
    """Counts the nodes ⌊ratio·n⌋ that a share of each sample's n answers makes, int (B,)."""
    # .29 · 100 is 28.999… in binary.
    return np.floor(ratio * count_B + 1e-9).astype(np.int64)


def _mean_of_the_middle(logits_NSC: Logits, present_NS: Mask, count_cut: CountNodes) -> Aggregated:
    def rule(logits_NBC: Doubles, present_NB: Mask) -> Doubles:
        # Logarithms keep the order, and no class's probability rounds to 0 among all of them.
        ranked_NBC = np.sort(np.where(present_NB[..., None], log_softmax(logits_NBC), np.inf), axis=0)
        count_B = present_NB.sum(axis=0)
        cut_B = count_cut(count_B)
        rank_N1 = np.arange(len(ranked_NBC))[:, None]
        kept_NB1 = ((rank_N1 >= cut_B) & (rank_N1 < count_B - cut_B))[..., None]
        return log_softmax(log_mean(ranked_NBC, kept_NB1.astype(np.float64)))

    return aggregate_samples(logits_NSC, present_NS, rule)


def _weiszfeld(logits_NBC: Doubles, present_NB: Mask) -> Doubles:
    log_NBC = log_softmax(logits_NBC)
    weights_NB1 = present_NB[..., None] / present_NB.sum(axis=0)[:, None]
    # Only the samples that still move are worked on: a few need ten times the steps of most.
    moving = np.arange(log_NBC.shape[1])
    answers_NB1, probability_NBC = present_NB[..., None], np.exp(log_NBC)
    centre_BC = (weights_NB1 * probability_NBC).sum(axis=0)
    for _ in range(_MAX_STEPS):
        distance_NB1 = np.linalg.norm(probability_NBC - centre_BC, axis=-1, keepdims=True)
        nearer_NB1 = answers_NB1 / np.maximum(distance_NB1, _LEAST_DISTANCE)
        nearer_NB1 /= nearer_NB1.sum(axis=0)
        weights_NB1[:, moving] = nearer_NB1
        next_BC = (nearer_NB1 * probability_NBC).sum(axis=0)
        moves_B = np.abs(next_BC - centre_BC).max(axis=-1) > _TOLERANCE
        if not moves_B.any():
            break
        moving, centre_BC = moving[moves_B], next_BC[moves_B]
        answers_NB1, probability_NBC = answers_NB1[:, moves_B], probability_NBC[:, moves_B]
    return log_mean(log_NBC, weights_NB1)


BUILT_IN: dict[str, Aggregator] = {
    "geometric_median": geometric_median,
    "median": median,
    "trimmed_mean": trimmed_mean,
}
