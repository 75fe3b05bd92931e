"""`ensemble`: what the nodes think of the public set becomes its next soft labels.

References: Li & Wang 2019, "FedMD", arXiv:1910.03581; Itahara et al. 2020, "DS-FL",
arXiv:2008.06180.
"""

from __future__ import annotations

import hashlib

import numpy as np

from fedstill.common.errors import RunError
from fedstill.server.aggregators import AggregatorOptions, get_aggregator
from fedstill.server.exchange.exchange import Exchange
from fedstill.server.schemes.records import Contribution, Scheme


def publish_ensemble(exchange: Exchange, contributions: list[Contribution]) -> None:
    """Aggregates the nodes' logits and publishes them; samples that nobody labelled keep their labels."""
    logits_SC = aggregate_logits(exchange, contributions)
    exchange.publish_labels(logits_SC, origin=digest_ensemble(contributions, logits_SC))


def aggregate_logits(exchange: Exchange, contributions: list[Contribution]) -> np.ndarray:
    """Aggregates logits on the public set, sample by sample.

    Args:
        exchange: The run; its configuration names the aggregator.
        contributions: Verified logits (S, C) by node, sorted by node.

    Returns:
        Logits (S, C), float32.

    Raises:
        RunError: Nobody labelled anything.
    """
    if not contributions:
        raise RunError(f"round {exchange.round}: no node sent logits that can be used")
    federation = exchange.config.federation
    logits_NSC = np.stack([contribution.values for contribution in contributions])
    aggregated = get_aggregator(federation.aggregator)(
        logits_NSC,
        present_NS=np.isfinite(logits_NSC).all(axis=2),
        options=AggregatorOptions(
            temperature=federation.aggregator_temperature,
            exponent=federation.aggregator_exponent,
            trim_ratio=federation.aggregator_trim_ratio,
            counts_N=np.array([item.counts_R.sum() for item in contributions]),
            counts_NC=_class_counts(contributions, num_classes=logits_NSC.shape[2]),
            weights_N=np.array([item.weight for item in contributions]),
        ),
    )
    if aggregated.covered_S.all():
        return aggregated.logits_SC
    previous = np.zeros_like(aggregated.logits_SC)
    if exchange.publication.label_set_id:
        previous = np.array(exchange.store.logits(exchange.publication.label_set_id))
    return np.where(aggregated.covered_S[:, None], aggregated.logits_SC, previous)


def _class_counts(contributions: list[Contribution], *, num_classes: int) -> np.ndarray | None:
    if any(len(item.counts_R) != num_classes for item in contributions):
        return None
    return np.stack([item.counts_R for item in contributions])


def digest_ensemble(contributions: list[Contribution], logits_SC: np.ndarray) -> str:
    """Names an ensemble by its members and what was made of them: SHA-256, hexadecimal."""
    digest = hashlib.sha256()
    for contribution in contributions:
        digest.update(contribution.node_id.encode() + b"\x1f")
        digest.update(np.ascontiguousarray(contribution.values).tobytes())
    digest.update(np.ascontiguousarray(logits_SC).tobytes())
    return digest.hexdigest()


BUILT_IN = {"ensemble": Scheme(uses_public=True, conclude=publish_ensemble, rows="public")}
