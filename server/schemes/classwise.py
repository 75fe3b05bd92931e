"""`classwise`: the mean over nodes of per-class mean logits.

Reference: Jeong et al. 2018, "Federated Distillation and Augmentation", arXiv:1811.11479.
Each node takes its own part out again (leave-one-out), so one array serves all.
"""

from __future__ import annotations

import numpy as np

from fedstill.server.exchange.exchange import Exchange
from fedstill.server.schemes.records import Contribution, Scheme


def average_class_means(exchange: Exchange, contributions: list[Contribution]) -> None:
    """Averages over the nodes that know a class, each counting once unless late, and publishes the means."""
    known_NC = np.stack([(item.counts_R > 0) * item.weight for item in contributions])
    values_NCD = np.stack([contribution.values for contribution in contributions]).astype(np.float64)
    num_nodes_C = known_NC.sum(axis=0)
    totals = (values_NCD * known_NC[:, :, None]).sum(axis=0)
    exchange.publish_rows(totals / np.where(num_nodes_C > 0, num_nodes_C, 1)[:, None], num_nodes_C)


BUILT_IN = {"classwise": Scheme(conclude=average_class_means, rows="classes")}
