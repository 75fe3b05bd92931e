"""Aggregators: how the logits of several nodes become the soft labels of one ensemble."""

from __future__ import annotations

from typing import Any

from fedstill.common.registry import Registry, gather, require_callable
from fedstill.server.aggregators.admission import check_upload
from fedstill.server.aggregators.aggregator import Aggregated, Aggregator, AggregatorOptions


def _as_aggregator(found: Any, name: str) -> Aggregator:
    signature = "a function of (logits_NSC, *, present_NS, options)"
    aggregator: Aggregator = require_callable(found, name, key="federation.aggregator", signature=signature)
    return aggregator


AGGREGATORS: Registry[Aggregator] = Registry(
    "aggregator",
    "fedstill.aggregators",
    gather(__name__),
    _as_aggregator,
)


def takes_weights(name: str) -> bool:
    """Says whether a node can weigh less than another, for being late: those with `f.takes_weights = True`.

    The others count heads.
    """
    return bool(getattr(AGGREGATORS[name], "takes_weights", False))


def needs_class_counts(name: str) -> bool:
    """Says whether nodes tell how many samples of each class they have: `f.needs_class_counts = True`."""
    return bool(getattr(AGGREGATORS[name], "needs_class_counts", False))


def get_aggregator(name: str) -> Aggregator:
    """Looks an aggregator up.

    Raises:
        ConfigError: The registry does not hold `name`; the known names are listed.
    """
    return AGGREGATORS[name]


__all__ = [
    "AGGREGATORS",
    "Aggregated",
    "Aggregator",
    "AggregatorOptions",
    "check_upload",
    "get_aggregator",
    "needs_class_counts",
    "takes_weights",
]
