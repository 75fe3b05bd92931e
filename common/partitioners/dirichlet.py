"""Label skew drawn from a Dirichlet distribution (Yurochkin et al. 2019, 1905.12022)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedstill.common.errors import DataError
from fedstill.common.partitioners.records import Indices, Partitioner, PartitionOptions, check_request

# A draw costs microseconds: many are cheap, and strong skew on few samples needs them.
MAX_DRAWS = 1000


def partition_dirichlet(
    labels_S: NDArray[np.int64],
    groups_S: NDArray[Any] | None,
    *,
    num_nodes: int,
    rng: np.random.Generator,
    options: PartitionOptions,
) -> list[Indices]:
    """Deals each class out in proportions drawn from Dirichlet(alpha, …, alpha).

    Draws again, `MAX_DRAWS` times at most, until every node has
    `min_samples_per_node`.

    Args, Returns and Raises as in `Partitioner`.

    Reference:
        Yurochkin et al. 2019, 1905.12022, as flwr-datasets has it without its
        self-balancing; samples of a class are shuffled here before they are cut.
    """
    check_request(labels_S, groups_S, num_nodes=num_nodes)
    minimum = options.min_samples_per_node
    if minimum * num_nodes > len(labels_S):
        raise DataError(
            f"{num_nodes} nodes of at least {minimum} samples need {minimum * num_nodes}, but {len(labels_S)}"
            " are private; lower federation.num_nodes or federation.min_samples_per_node"
        )
    classes, counts_C = np.unique(labels_S, return_counts=True)
    for _ in range(MAX_DRAWS):
        shares_CN = rng.dirichlet(np.full(num_nodes, options.alpha), size=len(classes))
        cuts_CN = (np.cumsum(shares_CN, axis=1) * counts_C[:, None]).astype(np.int64)[:, :-1]
        sizes_CN = np.diff(cuts_CN, axis=1, prepend=0, append=counts_C[:, None])
        if sizes_CN.sum(axis=0).min() >= minimum:
            break
    else:
        raise DataError(
            f"no draw of {MAX_DRAWS} gave each of {num_nodes} nodes {minimum} of the {len(labels_S)} private"
            f" samples; raise federation.alpha ({options.alpha:g}) or lower federation.min_samples_per_node"
        )
    owners_S = np.empty(len(labels_S), dtype=np.int64)
    for label, sizes_N in zip(classes, sizes_CN, strict=True):
        members = rng.permutation(np.flatnonzero(labels_S == label))
        owners_S[members] = np.repeat(np.arange(num_nodes), sizes_N)
    order = np.argsort(owners_S, kind="stable")
    return np.split(order, np.searchsorted(owners_S[order], np.arange(1, num_nodes)))


BUILT_IN: dict[str, Partitioner] = {"dirichlet": partition_dirichlet}
