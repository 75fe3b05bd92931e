"""`prototypes`: the count-weighted mean over nodes of per-class mean features.

Reference: Tan et al. 2021, "FedProto", arXiv:2105.00243.
"""

from __future__ import annotations

import numpy as np

from fedstill.common.errors import ConfigError
from fedstill.server.exchange.exchange import Exchange
from fedstill.server.schemes.records import Contribution, Scheme


def average_prototypes(exchange: Exchange, contributions: list[Contribution]) -> None:
    """Averages over all samples of a class, wherever they lie, and publishes the prototypes.

    Raises:
        ConfigError: Students of different feature sizes.
    """
    sizes = {contribution.node_id: contribution.values.shape[1] for contribution in contributions}
    if len(set(sizes.values())) > 1:
        (one, small), (other, large) = min(sizes.items(), key=_size), max(sizes.items(), key=_size)
        raise ConfigError(
            f"prototypes need students with equally many features: {one} has {small}, {other} has {large};"
            " choose a student.model list whose last layers are equally wide"
        )
    counts_NC = np.stack([item.counts_R * item.weight for item in contributions])
    values_NCD = np.stack([contribution.values for contribution in contributions]).astype(np.float64)
    counts_C = counts_NC.sum(axis=0)
    totals = (values_NCD * counts_NC[:, :, None]).sum(axis=0)
    exchange.publish_rows(totals / np.where(counts_C > 0, counts_C, 1)[:, None], counts_C)


def _size(item: tuple[str, int]) -> int:
    return item[1]


BUILT_IN = {
    "prototypes": Scheme(conclude=average_prototypes, rows="features", shares="features of one width")
}
