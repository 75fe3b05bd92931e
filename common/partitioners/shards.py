"""Few labels per node: shards of a set that is sorted by label (McMahan et al. 2017, 1602.05629)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedstill.common.partitioners.records import Indices, Partitioner, PartitionOptions, check_request


def partition_shards(
    labels_S: NDArray[np.int64],
    groups_S: NDArray[Any] | None,
    *,
    num_nodes: int,
    rng: np.random.Generator,
    options: PartitionOptions,
) -> list[Indices]:
    """Sorts by label, cuts `num_nodes` × `labels_per_node` shards and deals them at random.

    A shard may straddle two labels where class sizes are no multiples of its size.

    Args, Returns and Raises as in `Partitioner`.

    Reference:
        McMahan et al. 2017, 1602.05629, section 3. Shards differ by one sample at
        most instead of leaving out what does not divide evenly.
    """
    check_request(labels_S, groups_S, num_nodes=num_nodes)
    shuffled = rng.permutation(len(labels_S))
    by_label = shuffled[np.argsort(labels_S[shuffled], kind="stable")]
    shards = np.array_split(by_label, num_nodes * options.labels_per_node)
    dealt = rng.permutation(len(shards)).reshape(num_nodes, options.labels_per_node)
    return [np.sort(np.concatenate([shards[index] for index in row])) for row in dealt]


BUILT_IN: dict[str, Partitioner] = {"shards": partition_shards}
