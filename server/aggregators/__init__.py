"""Aggregators: how the logits of several nodes become the soft labels of one ensemble."""

from __future__ import annotations

from typing import Any

from fedstill.common.registry import Registry, require_callable
from fedstill.server.aggregators.admission import check_upload
from fedstill.server.aggregators.aggregator import Aggregated, Aggregator, AggregatorOptions
from fedstill.server.aggregators.cronus import cronus
from fedstill.server.aggregators.means import (
    enhanced_entropy_reduction,
    entropy_reduction,
    mean_logits,
    mean_probability,
)
from fedstill.server.aggregators.robust import geometric_median, median, trimmed_mean
from fedstill.server.aggregators.weighted import class_count_mean, confidence_mean, count_mean, variance_mean


def _as_aggregator(found: Any, name: str) -> Aggregator:
    signature = "a function of (logits_NSC, *, present_NS, options)"
    aggregator: Aggregator = require_callable(found, name, key="federation.aggregator", signature=signature)
    return aggregator


AGGREGATORS: Registry[Aggregator] = Registry(
    "aggregator",
    "fedstill.aggregators",
    {
        "class_count": class_count_mean,
        "confidence": confidence_mean,
        "count": count_mean,
        "cronus": cronus,
        "enhanced_era": enhanced_entropy_reduction,
        "era": entropy_reduction,
        "geometric_median": geometric_median,
        "mean": mean_logits,
        "mean_probability": mean_probability,
        "median": median,
        "trimmed_mean": trimmed_mean,
        "variance": variance_mean,
    },
    _as_aggregator,
)

# Those in which a node can weigh less than another, for being late; the others count heads.
TAKES_WEIGHTS = frozenset(
    {"class_count", "confidence", "count", "enhanced_era", "era", "mean", "mean_probability", "variance"}
)

# Those that weigh a node by how many samples of each class it says it has; the others are not told.
NEEDS_CLASS_COUNTS = frozenset({"class_count"})


def takes_weights(name: str) -> bool:
    """Says whether a node can weigh less than another; a stranger's says so by `f.takes_weights = True`."""
    return name in TAKES_WEIGHTS or bool(getattr(AGGREGATORS[name], "takes_weights", False))


def needs_class_counts(name: str) -> bool:
    """Says whether nodes tell their class counts; a stranger's asks by `f.needs_class_counts = True`."""
    return name in NEEDS_CLASS_COUNTS or bool(getattr(AGGREGATORS[name], "needs_class_counts", False))


def get_aggregator(name: str) -> Aggregator:
    """Looks an aggregator up.

    Raises:
        ConfigError: The registry does not hold `name`; the known names are listed.
    """
    return AGGREGATORS[name]


__all__ = [
    "AGGREGATORS",
    "NEEDS_CLASS_COUNTS",
    "TAKES_WEIGHTS",
    "Aggregated",
    "Aggregator",
    "AggregatorOptions",
    "check_upload",
    "get_aggregator",
    "needs_class_counts",
    "takes_weights",
]
