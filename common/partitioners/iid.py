"""Equal parts of a shuffled set."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedstill.common.partitioners.records import Indices, Partitioner, PartitionOptions, check_request


def partition_iid(
    labels_S: NDArray[np.int64],
    groups_S: NDArray[Any] | None,
    *,
    num_nodes: int,
    rng: np.random.Generator,
    options: PartitionOptions,  # noqa: ARG001 - every partitioner takes the same arguments
) -> list[Indices]:
    """Deals a shuffled set out evenly: sizes differ by one sample at most.

    Args, Returns and Raises as in `Partitioner`.
    """
    check_request(labels_S, groups_S, num_nodes=num_nodes)
    return [np.sort(part) for part in np.array_split(rng.permutation(len(labels_S)), num_nodes)]


BUILT_IN: dict[str, Partitioner] = {"iid": partition_iid}
