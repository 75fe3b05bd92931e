import numpy as np

from fedstill.common.partitioners import PartitionOptions
from fedstill.common.partitioners.shards import partition_shards

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 40))


def deal(*, labels_per_node, num_nodes=10, seed=0):
    rng, options = np.random.default_rng(seed), PartitionOptions(labels_per_node=labels_per_node)
    return partition_shards(LABELS, None, num_nodes=num_nodes, rng=rng, options=options)


def test_one_shard_of_a_classs_size_holds_one_label():
    assert all(len(np.unique(LABELS[part])) == 1 for part in deal(labels_per_node=1))


def test_two_shards_hold_two_labels_at_most():
    assert all(len(np.unique(LABELS[part])) <= 2 for part in deal(labels_per_node=2))


def test_samples_that_do_not_divide_evenly_are_not_lost():
    sizes = [len(part) for part in deal(labels_per_node=3, num_nodes=7)]
    assert sum(sizes) == 400
    assert max(sizes) - min(sizes) <= 3
