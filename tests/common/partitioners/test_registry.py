"""What every entry of the registry promises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstill.common.errors import DataError
from fedstill.common.partitioners import PARTITIONERS, PartitionOptions

OPTIONS = PartitionOptions(alpha=0.5, min_samples_per_node=0, labels_per_node=2)
LABELS = np.arange(400) % 7
GROUPS = np.array([f"person-{index % 23}" for index in range(400)])

every_partitioner = pytest.mark.parametrize("name", PARTITIONERS)


def deal(name, labels=LABELS, groups=GROUPS, *, num_nodes=6, seed=0, options=OPTIONS):
    rng = np.random.default_rng(seed)
    return PARTITIONERS[name](labels, groups, num_nodes=num_nodes, rng=rng, options=options)


@every_partitioner
@settings(derandomize=True, deadline=None, max_examples=50)
@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    num_nodes=st.integers(1, 12),
    seed=st.integers(0, 2**32),
)
def test_every_sample_is_dealt_exactly_once(name, labels, num_nodes, seed):
    groups = np.array([str(index % num_nodes) for index in range(max(len(labels), num_nodes))])
    labels = np.resize(np.array(labels), len(groups))
    parts = deal(name, labels, groups, num_nodes=num_nodes, seed=seed)
    assert len(parts) == num_nodes
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))


@every_partitioner
def test_partitions_are_sorted_int64(name):
    for part in deal(name):
        assert part.dtype == np.int64
        assert np.all(np.diff(part) > 0)


@every_partitioner
def test_same_seed_deals_alike(name):
    assert all(map(np.array_equal, deal(name, seed=3), deal(name, seed=3)))


@every_partitioner
def test_other_seed_deals_differently(name):
    assert not all(map(np.array_equal, deal(name, seed=3), deal(name, seed=4)))


@every_partitioner
def test_inputs_stay_as_they_were(name):
    labels, groups = LABELS.copy(), GROUPS.copy()
    deal(name, labels, groups)
    assert np.array_equal(labels, LABELS)
    assert np.array_equal(groups, GROUPS)


@every_partitioner
def test_one_node_gets_everything(name):
    (part,) = deal(name, num_nodes=1)
    assert np.array_equal(part, np.arange(len(LABELS)))


@every_partitioner
def test_no_nodes_are_refused(name):
    with pytest.raises(DataError, match="at least one node"):
        deal(name, num_nodes=0)


@every_partitioner
def test_groups_of_other_samples_are_refused(name):
    with pytest.raises(DataError, match="one group per sample, got 3 for 400"):
        deal(name, groups=np.array(["a", "b", "c"]))


@pytest.mark.parametrize("name", sorted(set(PARTITIONERS) - {"group"}))
def test_groups_are_optional(name):
    assert len(deal(name, groups=None)) == 6


@pytest.mark.parametrize("name", ["iid", "dirichlet", "shards"])
def test_more_nodes_than_samples_leaves_nodes_empty(name):
    parts = deal(name, LABELS[:5], None, num_nodes=9)
    assert sorted(np.concatenate(parts)) == [0, 1, 2, 3, 4]
