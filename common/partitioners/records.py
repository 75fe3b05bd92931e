"""What every partitioner takes and returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedstill.common.errors import DataError

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class PartitionOptions:
    """What the configuration says about partitions; each partitioner reads what concerns it.

    `alpha` is Dirichlet's concentration, `min_samples_per_node` what it leaves every
    node at least, `labels_per_node` the number of shards that a node is dealt.
    """

    alpha: float = 0.5
    min_samples_per_node: int = 0
    labels_per_node: int = 2


class Partitioner(Protocol):
    """Deals samples to nodes.

    Args:
        labels_S: Classes of the samples, int64.
        groups_S: The person, site or species of each sample, as text; None if unknown.
        num_nodes: How many partitions to make.
        rng: Where all randomness comes from.
        options: See `PartitionOptions`.

    Returns:
        One sorted int64 array of sample indices per node; together they hold every
        sample exactly once. A node may come away empty.

    Raises:
        DataError: The samples cannot be dealt as the options ask.
    """

    def __call__(
        self,
        labels_S: NDArray[np.int64],
        groups_S: NDArray[Any] | None,
        *,
        num_nodes: int,
        rng: np.random.Generator,
        options: PartitionOptions,
    ) -> list[Indices]: ...


def sort_groups(groups_S: NDArray[Any]) -> list[str]:
    """Lists the distinct groups, numbers by value ("2" before "10") and before names."""
    names = [str(name) for name in np.unique(groups_S)]
    return sorted(names, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))


def check_request(labels_S: NDArray[np.int64], groups_S: NDArray[Any] | None, *, num_nodes: int) -> None:
    """Refuses what no partitioner can deal.

    Raises:
        DataError: No node, or groups that do not belong to these labels.
    """
    if num_nodes < 1:
        raise DataError(f"expected at least one node to deal samples to, got {num_nodes}")
    if groups_S is not None and len(groups_S) != len(labels_S):
        raise DataError(f"expected one group per sample, got {len(groups_S)} for {len(labels_S)} samples")
