"""Partitioners: how private samples are dealt to nodes."""

from __future__ import annotations

from typing import Any

from fedstill.common.partitioners.records import Indices, Partitioner, PartitionOptions, sort_groups
from fedstill.common.registry import Registry, gather, require_callable

__all__ = ["PARTITIONERS", "Indices", "PartitionOptions", "Partitioner", "sort_groups"]


def _as_partitioner(found: Any, name: str) -> Partitioner:
    signature = "a function of (labels_S, groups_S, *, num_nodes, rng, options)"
    partitioner: Partitioner = require_callable(
        found, name, key="federation.partitioner", signature=signature
    )
    return partitioner


PARTITIONERS: Registry[Partitioner] = Registry(
    "partitioner",
    "fedstill.partitioners",
    gather(__name__, first=("iid", "dirichlet", "shards", "group")),
    _as_partitioner,
)
