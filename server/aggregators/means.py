"""Plain means, and means that are sharpened."""

from __future__ import annotations

import numpy as np

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


@marked(takes_weights=True)
def mean_logits(logits_NSC: Logits, *, present_NS: Mask, options: AggregatorOptions) -> Aggregated:
    """Averages logits: Σ z_k / n over the n nodes that answered.

    Args:
        logits_NSC: Logits (N, S, C), float32.
        present_NS: Which node answered which sample, bool (N, S).
        options: Weights of the nodes, if any.

    Returns:
        The mean logits. One node can move them as far as it likes.

    Reference:
        Li, Wang 2019, "FedMD", arXiv:1910.03581.
    """

    def rule(logits_NBC: Doubles, present_NB: Mask) -> Doubles:
        weights_NB = options.weigh(present_NB)
        mean: Doubles = (logits_NBC * weights_NB[..., None]).sum(axis=0) / weights_NB.sum(axis=0)[:, None]
        return mean

    return aggregate_samples(logits_NSC, present_NS, rule)


@marked(takes_weights=True)
def mean_probability(logits_NSC: Logits, *, present_NS: Mask, options: AggregatorOptions) -> Aggregated:
    """Averages probabilities: p̄ = Σ softmax(z_k) / n over the n nodes that answered.

    Args:
        logits_NSC: Logits (N, S, C), float32.
        present_NS: Which node answered which sample, bool (N, S).
        options: Weights of the nodes, if any.

    Returns:
        log p̄. One node of n moves p̄ by 1/n at most.

    Reference:
        Itahara, Nishio, Koda, Morikura, Yamamoto 2020, "Distillation-Based Semi-Supervised
        Federated Learning", arXiv:2008.06180 (its simple aggregation).
    """

    def rule(logits_NBC: Doubles, present_NB: Mask) -> Doubles:
        return _log_mean_probability(logits_NBC, options.weigh(present_NB))

    return aggregate_samples(logits_NSC, present_NS, rule)


@marked(takes_weights=True)
def entropy_reduction(logits_NSC: Logits, *, present_NS: Mask, options: AggregatorOptions) -> Aggregated:
    """Sharpens the mean probability: softmax(p̄ / τ).

    Args:
        logits_NSC: Logits (N, S, C), float32.
        present_NS: Which node answered which sample, bool (N, S).
        options: `temperature` is τ.

    Returns:
        Log-probabilities. As p̄ is 1 at most, no probability falls below exp(−1/τ) of the
        largest: even nodes that are certain give labels that are not.

    Reference:
        Itahara et al. 2020, arXiv:2008.06180.
    """

    def rule(logits_NBC: Doubles, present_NB: Mask) -> Doubles:
        log_BC = _log_mean_probability(logits_NBC, options.weigh(present_NB))
        return log_softmax(np.exp(log_BC) / options.temperature)

    return aggregate_samples(logits_NSC, present_NS, rule)


@marked(takes_weights=True)
def enhanced_entropy_reduction(
    logits_NSC: Logits, *, present_NS: Mask, options: AggregatorOptions
) -> Aggregated:
    """Sharpens the mean probability by a power: p̄^β / Σ p̄^β.

    Args:
        logits_NSC: Logits (N, S, C), float32.
        present_NS: Which node answered which sample, bool (N, S).
        options: `exponent` is β; 1 gives p̄ itself.

    Returns:
        Log-probabilities.

    Reference:
        Azuma et al. 2025, "Soft-Label Caching and Sharpening for Communication-Efficient
        Federated Distillation" (SCARLET), arXiv:2504.19602.
    """

    def rule(logits_NBC: Doubles, present_NB: Mask) -> Doubles:
        return log_softmax(options.exponent * _log_mean_probability(logits_NBC, options.weigh(present_NB)))

    return aggregate_samples(logits_NSC, present_NS, rule)


def _log_mean_probability(logits_NBC: Doubles, weights_NB: Doubles) -> Doubles:
    return log_mean(log_softmax(logits_NBC), weights_NB[..., None])


BUILT_IN: dict[str, Aggregator] = {
    "enhanced_era": enhanced_entropy_reduction,
    "era": entropy_reduction,
    "mean": mean_logits,
    "mean_probability": mean_probability,
}
