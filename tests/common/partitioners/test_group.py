import numpy as np
import pytest

from fedstill.common.errors import DataError
from fedstill.common.partitioners import PartitionOptions, sort_groups
from fedstill.common.partitioners.group import partition_by_group

GROUPS = np.array(["10", "2", "1", "2", "10", "3", "4"])
LABELS = np.zeros(7, dtype=np.int64)


def deal(groups, *, num_nodes, seed=0):
    return partition_by_group(
        LABELS, groups, num_nodes=num_nodes, rng=np.random.default_rng(seed), options=PartitionOptions()
    )


def test_nodes_take_the_groups_in_their_order():
    assert [part.tolist() for part in deal(GROUPS, num_nodes=5)] == [[2], [1, 3], [5], [6], [0, 4]]


@pytest.mark.parametrize("seed", range(5))
def test_more_groups_than_nodes_are_dealt_out_whole_and_evenly(seed):
    held = [set(GROUPS[part]) for part in deal(GROUPS, num_nodes=2, seed=seed)]
    assert sorted(map(len, held)) == [2, 3]
    assert not held[0] & held[1]


def test_fewer_groups_than_nodes_are_refused():
    with pytest.raises(
        DataError, match=r"5 private groups for 6 nodes; set federation\.num_nodes to 5 at most"
    ):
        deal(GROUPS, num_nodes=6)


def test_missing_groups_are_refused():
    with pytest.raises(DataError, match=r"set data.group_column for a CSV"):
        deal(None, num_nodes=2)


def test_numbers_sort_by_value_and_before_names():
    assert sort_groups(np.array(["b", "10", "a", "9"])) == ["9", "10", "a", "b"]
