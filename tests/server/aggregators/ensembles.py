"""Ensembles of drawn or given logits, and an aggregator of any name applied to them."""

import numpy as np
import pytest

from fedstill.server.aggregators import AGGREGATORS, AggregatorOptions, get_aggregator

every_aggregator = pytest.mark.parametrize("name", sorted(AGGREGATORS))


def draw_logits(seed, shape=(7, 6, 5), spread=3.0):
    return (np.random.default_rng(seed).normal(size=shape) * spread).astype(np.float32)


def softmax(logits):
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def aggregate(name, logits, present=None, **options):
    logits = np.asarray(logits, np.float32)
    present = np.ones(logits.shape[:2], bool) if present is None else present
    if "counts_NC" not in options:
        counts_N = options.pop("counts_N", np.arange(1, len(logits) + 1))
        options |= counts_for(name, counts_N, num_classes=logits.shape[2])
    return get_aggregator(name)(logits, present_NS=present, options=AggregatorOptions(**options))


def counts_for(name, counts_N, *, num_classes):
    """Gives an aggregator the counts in the form that it reads, alike for all classes."""
    if name == "class_count" and counts_N is not None:
        return {"counts_NC": np.tile(np.asarray(counts_N)[:, None], (1, num_classes))}
    return {"counts_N": counts_N}
