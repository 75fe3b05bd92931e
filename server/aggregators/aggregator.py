"""What every aggregator is: a function from the logits of nodes to those of one ensemble."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fedstill.common.errors import ConfigError

Logits = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

# Rules work on float64 copies of one block of samples: 32 MiB each, whatever the public set's size.
_BLOCK_VALUES = 2**22


@dataclass(frozen=True)
class AggregatorOptions:
    """What the aggregators can be tuned by; each reads its own.

    Attributes:
        temperature: `era`: divides the mean probability, in (0, 1); lower is sharper.
        exponent: `enhanced_era`: power of the mean probability, above 0; over 1 sharpens.
        trim_ratio: `trimmed_mean`, `cronus`: share of nodes, in [0, .5), that is cut off at
            each end, or dropped; the share of colluding nodes that they withstand.
        counts_N: `count`: private samples per node (N,), 0 or more.
        counts_NC: `count`: the same per class (N, C); goes before `counts_N`.
        weights_N: Weights of the nodes (N,), above 0, in the aggregators that take any; None: all alike.

    Raises:
        ConfigError: A value is out of its range.
    """

    temperature: float = 0.1
    exponent: float = 1.5
    trim_ratio: float = 0.2
    counts_N: np.ndarray | None = None
    counts_NC: np.ndarray | None = None
    weights_N: np.ndarray | None = None

    def weigh(self, present_NB: Mask) -> Doubles:
        """Gives the weight of each node at each sample (N, B), float64, 0 where it is absent."""
        weights_NB: Doubles = present_NB.astype(np.float64)
        return weights_NB if self.weights_N is None else weights_NB * self.weights_N[:, None]

    def __post_init__(self) -> None:
        if not 0 < self.temperature < 1:
            raise ConfigError(f"the aggregator's temperature must lie in (0, 1), got {self.temperature}")
        if not 0 < self.exponent < float("inf"):
            raise ConfigError(f"the aggregator's exponent must be finite and above 0, got {self.exponent}")
        if not 0 <= self.trim_ratio < 0.5:
            raise ConfigError(f"the aggregator's trim_ratio must lie in [0, .5), got {self.trim_ratio}")
        for counts in (self.counts_N, self.counts_NC):
            if counts is not None and not (np.isfinite(counts) & (counts >= 0)).all():
                raise ConfigError("sample counts of nodes must be finite and not below 0")


@dataclass(frozen=True)
class Aggregated:
    """An ensemble's logits.

    Attributes:
        logits_SC: float32 (S, C), finite; softmax gives the aggregated soft labels. Rows
            that no node answered are 0.
        covered_S: bool (S,): whether any node answered the sample.
    """

    logits_SC: Logits
    covered_S: Mask


class Aggregator(Protocol):
    """Turns logits (N, S, C) into one ensemble's (S, C), per sample over the nodes that answered it.

    `logits_NSC` is float32, finite where `present_NS` is true and whatever elsewhere. The
    order of the nodes changes the result by the rounding of sums at most.
    """

    def __call__(self, logits_NSC: Logits, *, present_NS: Mask, options: AggregatorOptions) -> Aggregated: ...


Rule = Callable[[Doubles, Mask], Doubles]


def aggregate_samples(logits_NSC: Logits, present_NS: Mask, rule: Rule) -> Aggregated:
    """Applies a rule to the samples that some node answered, block by block.

    Args:
        logits_NSC: Logits (N, S, C); rows of absent nodes hold anything, NaN too.
        present_NS: Which node answered which sample, bool (N, S).
        rule: From float64 logits (N, B, C), 0 where absent, and presence (N, B), in which
            every sample has an answer, to float64 logits (B, C).

    Returns:
        The ensemble's logits and the samples that they cover.
    """
    num_nodes, num_samples, num_classes = logits_NSC.shape
    assert present_NS.shape == (num_nodes, num_samples), (present_NS.shape, logits_NSC.shape)
    covered_S: Mask = np.logical_or.reduce(present_NS, axis=0)
    result_SC = np.zeros((num_samples, num_classes), np.float32)
    block = max(1, _BLOCK_VALUES // max(1, num_nodes * num_classes))
    samples = np.flatnonzero(covered_S)
    for start in range(0, len(samples), block):
        chosen = samples[start : start + block]
        present_NB = present_NS[:, chosen]
        logits_NBC = np.where(present_NB[..., None], logits_NSC[:, chosen], 0).astype(np.float64)
        result_SC[chosen] = rule(logits_NBC, present_NB)
    return Aggregated(result_SC, covered_S)


def log_softmax(logits: Doubles) -> Doubles:
    """Computes log-probabilities over the last axis; finite for any finite logits."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Doubles = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def log_mean(log_NBC: Doubles, weights_NBX: Doubles) -> Doubles:
    """Computes log Σ w·exp(v) / Σ w over nodes, finite where no probability would be.

    Args:
        log_NBC: Logarithms (N, B, C).
        weights_NBX: Weights (N, B, C) or (N, B, 1), not below 0, above 0 somewhere in N.

    Returns:
        Logarithms (B, C).
    """
    log_NBC = np.where(weights_NBX > 0, log_NBC, -np.inf)
    largest_BC = log_NBC.max(axis=0)
    total_BC = (weights_NBX * np.exp(log_NBC - largest_BC)).sum(axis=0)
    result: Doubles = largest_BC + np.log(total_BC / weights_NBX.sum(axis=0))
    return result
