"""Means in which some nodes weigh more: the confident ones, or those that saw more samples.

None of these withstands a colluding node; confidence is easily feigned.
"""

from __future__ import annotations

import math

import numpy as np

from fedstill.common.errors import ConfigError
from fedstill.common.registry import marked
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

# Share of the largest possible entropy below which a node counts as no more confident:
# so none weighs over ten times as much as another.
_LEAST_ENTROPY = 0.1


@marked(takes_weights=True)
def confidence_mean(logits_NSC: Logits, *, present_NS: Mask, options: AggregatorOptions) -> Aggregated:
    """Averages probabilities with weights 1 / H(p_k), per sample.

    Args:
        logits_NSC: Logits (N, S, C), float32.
        present_NS: Which node answered which sample, bool (N, S).
        options: Weights of the nodes, if any.

    Returns:
        Log-probabilities.

    Reference:
        Kovalchuk et al. 2025, "Who to Trust? Aggregating Client Knowledge in Logit-Based
        Federated Learning", arXiv:2509.15147, studies weights by uncertainty. Here H is
        .1·ln C at least, so that a node that is certain does not silence the rest.
    """

    def rule(logits_NBC: Doubles, present_NB: Mask) -> Doubles:
        log_NBC = log_softmax(logits_NBC)
        entropy_NB = -(np.exp(log_NBC) * log_NBC).sum(axis=-1)
        weights_NB = options.weigh(present_NB) / np.maximum(
            entropy_NB, _LEAST_ENTROPY * math.log(logits_NBC.shape[-1])
        )
        return log_mean(log_NBC, weights_NB[..., None])

    return aggregate_samples(logits_NSC, present_NS, rule)


@marked(takes_weights=True)
def variance_mean(logits_NSC: Logits, *, present_NS: Mask, options: AggregatorOptions) -> Aggregated:
    """Averages logits with weights Var(z_k) over the classes, per sample.

    Args:
        logits_NSC: Logits (N, S, C), float32.
        present_NS: Which node answered which sample, bool (N, S).
        options: Weights of the nodes, if any.

    Returns:
        The weighted mean logits; the plain mean where no node prefers any class.

    Reference:
        Cho, Manoel, Joshi, Sim, Dimitriadis 2022, "Heterogeneous Ensemble Knowledge Transfer
        for Training Large Models in Federated Learning" (Fed-ET), arXiv:2204.12703.
    """

    def rule(logits_NBC: Doubles, present_NB: Mask) -> Doubles:
        present_weights_NB = options.weigh(present_NB)
        weights_NB = _or_equal(logits_NBC.var(axis=-1) * present_weights_NB, present_weights_NB)
        return _weighted_mean(logits_NBC, weights_NB)

    return aggregate_samples(logits_NSC, present_NS, rule)


@marked(takes_weights=True)
def count_mean(logits_NSC: Logits, *, present_NS: Mask, options: AggregatorOptions) -> Aggregated:
    """Averages probabilities with weights of how many private samples a node learned from.

    Args:
        logits_NSC: Logits (N, S, C), float32.
        present_NS: Which node answered which sample, bool (N, S).
        options: `counts_NC` weighs each class of a node apart, else `counts_N` the node.

    Returns:
        Log-probabilities. Nodes weigh the same where none that answered saw any sample.

    Raises:
        ConfigError: No counts are given, or not one per node (and class).

    Reference:
        McMahan et al. 2017, arXiv:1602.05629, weighs weights so; here soft labels.
    """
    num_nodes, _, num_classes = logits_NSC.shape
    counts_NX = options.counts_N if options.counts_NC is None else options.counts_NC
    expected = (num_nodes,) if options.counts_NC is None else (num_nodes, num_classes)
    counts_NX = _check_counts("count", counts_NX, expected)
    counts_N1X = counts_NX.astype(np.float64).reshape(num_nodes, 1, *(expected[1:] or (1,)))

    def rule(logits_NBC: Doubles, present_NB: Mask) -> Doubles:
        present_NB1 = options.weigh(present_NB)[..., None]
        return log_softmax(
            log_mean(log_softmax(logits_NBC), _or_equal(counts_N1X * present_NB1, present_NB1))
        )

    return aggregate_samples(logits_NSC, present_NS, rule)


@marked(takes_weights=True, needs_class_counts=True)
def class_count_mean(logits_NSC: Logits, *, present_NS: Mask, options: AggregatorOptions) -> Aggregated:
    """Averages logits with weights of how well a node knows the classes that a sample is likely of.

    A sample is asked about the two classes that all nodes together find likeliest. Who has
    learned from m samples of one and n of the other weighs min(m, n): to tell two classes
    apart takes samples of both.

    Args:
        logits_NSC: Logits (N, S, C), float32, two classes or more.
        present_NS: Which node answered which sample, bool (N, S).
        options: `counts_NC`, private samples per node and class; weights of the nodes, if any.

    Returns:
        The weighted mean of the logits, each node's around its own mean. Nodes weigh the same
        where none that answered knows both classes.

    Raises:
        ConfigError: No counts are given, or not one per node and class.

    Reference:
        Ours. Weights by class counts: FedGEMS, arXiv:2110.11027, and FedLC, arXiv:2209.00189, treat
        the same trouble, nodes that never saw a class.
    """
    num_nodes, _, num_classes = logits_NSC.shape
    counts_NC = _check_counts("class_count", options.counts_NC, (num_nodes, num_classes))

    def rule(logits_NBC: Doubles, present_NB: Mask) -> Doubles:
        present_weights_NB = options.weigh(present_NB)
        all_BC = log_mean(log_softmax(logits_NBC), present_weights_NB[..., None])
        likeliest_B2 = np.argsort(-all_BC, axis=1, kind="stable")[:, :2]
        known_NB = counts_NC[:, likeliest_B2].min(axis=2)
        weights_NB = _or_equal(known_NB * present_weights_NB, present_weights_NB)
        return _weighted_mean(logits_NBC - logits_NBC.mean(axis=2, keepdims=True), weights_NB)

    return aggregate_samples(logits_NSC, present_NS, rule)


def _weighted_mean(logits_NBC: Doubles, weights_NB: Doubles) -> Doubles:
    mean: Doubles = (logits_NBC * (weights_NB / weights_NB.sum(axis=0))[..., None]).sum(axis=0)
    return mean


def _check_counts(name: str, counts: np.ndarray | None, expected: tuple[int, ...]) -> np.ndarray:
    if counts is None or counts.shape != expected:
        came = "none" if counts is None else f"shape {counts.shape}"
        raise ConfigError(f"aggregator {name!r} needs sample counts of shape {expected}, got {came}")
    return counts


def _or_equal(weights: Doubles, present: Doubles) -> Doubles:
    return np.where(weights.sum(axis=0) > 0, weights, present)


BUILT_IN: dict[str, Aggregator] = {
    "class_count": class_count_mean,
    "confidence": confidence_mean,
    "count": count_mean,
    "variance": variance_mean,
}
