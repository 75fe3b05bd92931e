"""Natural partitions: one person, site or species per node."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedstill.common.errors import DataError
from fedstill.common.partitioners.records import (
    Indices,
    Partitioner,
    PartitionOptions,
    check_request,
    sort_groups,
)


def partition_by_group(
    labels_S: NDArray[np.int64],
    groups_S: NDArray[Any] | None,
    *,
    num_nodes: int,
    rng: np.random.Generator,
    options: PartitionOptions,  # noqa: ARG001 - every partitioner takes the same arguments
) -> list[Indices]:
    """Gives each node the samples of one group, in the groups' order.

    Where there are more groups than nodes, shuffled groups are dealt out whole, their
    numbers per node differing by one at most.

    Args, Returns and Raises as in `Partitioner`.
    """
    check_request(labels_S, groups_S, num_nodes=num_nodes)
    if groups_S is None:
        raise DataError(
            "federation.partitioner 'group' needs groups: set data.group_column for a CSV,"
            " or give the .npz a `subject` array"
        )
    names = sort_groups(groups_S)
    if len(names) < num_nodes:
        raise DataError(
            f"federation.partitioner 'group' has {len(names)} private groups for {num_nodes} nodes;"
            f" set federation.num_nodes to {len(names)} at most"
        )
    if len(names) > num_nodes:
        names = [names[index] for index in rng.permutation(len(names))]
    return [np.flatnonzero(np.isin(groups_S, part)) for part in np.array_split(np.array(names), num_nodes)]


BUILT_IN: dict[str, Partitioner] = {"group": partition_by_group}
