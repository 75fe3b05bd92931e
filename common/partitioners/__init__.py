"""Partitioners: how private samples are dealt to nodes."""

from fedstill.common.partitioners.dirichlet import partition_dirichlet
from fedstill.common.partitioners.group import partition_by_group
from fedstill.common.partitioners.iid import partition_iid
from fedstill.common.partitioners.records import Indices, Partitioner, PartitionOptions, sort_groups
from fedstill.common.partitioners.shards import partition_shards

__all__ = ["PARTITIONERS", "Indices", "PartitionOptions", "Partitioner", "sort_groups"]

PARTITIONERS: dict[str, Partitioner] = {
    "iid": partition_iid,
    "dirichlet": partition_dirichlet,
    "shards": partition_shards,
    "group": partition_by_group,
}
