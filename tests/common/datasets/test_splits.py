"""Who holds what."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstill.common.config import build_config
from fedstill.common.datasets import Dataset, split_dataset
from fedstill.common.errors import ConfigError, DataError

BALANCED = np.random.default_rng(0).permutation(np.repeat(np.arange(4), 250))


def make_dataset(labels=BALANCED, groups=None):
    labels = np.asarray(labels)
    x = np.zeros((len(labels), 2), np.float32)
    return Dataset("d", "tabular", "F", x, labels, x[:1], labels[:1], ("a", "b", "c", "d"), groups)


def split(dataset=None, *, seed=0, **keys):
    sections = {"num_server": "data", "num_public": "data", "server_validation_fraction": "data"}
    sections |= {"private_test_fraction": "data", "private_validation_fraction": "data"}
    config = build_config({f"{sections.get(key, 'federation')}.{key}": value for key, value in keys.items()})
    return split_dataset(dataset or make_dataset(), data=config.data, federation=config.federation, seed=seed)


def all_parts(splits):
    nodes = [part for node in splits.partitions for part in (node.train, node.validation, node.test)]
    return [splits.server_train, splits.server_validation, splits.public, *nodes]


def same(first, second):
    return all(map(np.array_equal, all_parts(first), all_parts(second)))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    partitioner=st.sampled_from(["iid", "dirichlet", "shards", "group"]),
    num_nodes=st.integers(1, 12),
    num_groups=st.integers(1, 30),
    num_server=st.floats(0.05, 0.4),
    num_public=st.floats(0.05, 0.4),
    seed=st.integers(0, 1000),
)
def test_parts_are_disjoint_and_cover_the_training_part(
    partitioner, num_nodes, num_groups, num_server, num_public, seed
):
    groups = np.array([f"p{index % max(num_groups, num_nodes)}" for index in range(len(BALANCED))])
    splits = split(
        make_dataset(groups=groups),
        seed=seed,
        partitioner=partitioner,
        num_nodes=num_nodes,
        num_server=num_server,
        num_public=num_public,
    )
    assert np.array_equal(np.sort(np.concatenate(all_parts(splits))), np.arange(len(BALANCED)))
    assert all(np.all(np.diff(part) > 0) for part in all_parts(splits))


@pytest.mark.parametrize("partitioner", ["iid", "dirichlet", "shards"])
def test_same_seed_splits_alike_and_another_differently(partitioner):
    assert same(split(seed=2, partitioner=partitioner), split(seed=2, partitioner=partitioner))
    assert not same(split(seed=2, partitioner=partitioner), split(seed=3, partitioner=partitioner))


def test_nodes_leave_servers_and_public_set_alone():
    few, many = split(num_nodes=2, partitioner="iid"), split(num_nodes=20, partitioner="iid")
    assert np.array_equal(few.server_train, many.server_train)
    assert np.array_equal(few.public, many.public)


def test_sizes_can_be_counts():
    splits = split(num_server=100, num_public=333, server_validation_fraction=0.2)
    assert (len(splits.server_train), len(splits.server_validation), len(splits.public)) == (80, 20, 333)


def test_sizes_can_be_fractions():
    splits = split(num_server=0.1, num_public=0.25)
    assert len(splits.server_train) + len(splits.server_validation) == 100
    assert len(splits.public) == 250


def test_sets_hold_each_class_in_its_share():
    splits = split(num_server=100, num_public=200, server_validation_fraction=0.2)
    assert np.bincount(BALANCED[splits.server_train]).tolist() == [20] * 4
    assert np.bincount(BALANCED[splits.server_validation]).tolist() == [5] * 4
    assert np.bincount(BALANCED[splits.public]).tolist() == [50] * 4


def test_node_parts_are_their_shares_rounded_down():
    (node,) = split(num_nodes=1, num_server=500, num_public=461).partitions
    assert (len(node.train), len(node.validation), len(node.test)) == (29, 3, 7)


@pytest.mark.parametrize("num_private", range(1, 12))
def test_training_part_of_a_small_partition_is_never_empty(num_private):
    (node,) = split(
        num_nodes=1,
        partitioner="iid",
        num_server=500,
        num_public=500 - num_private,
        private_test_fraction=0.5,
        private_validation_fraction=0.45,
    ).partitions
    assert len(node.train) >= 1
    assert node.num_samples == num_private


def test_whole_groups_go_to_server_public_or_one_node():
    groups = np.array([str(index % 20) for index in range(1000)])
    splits = split(
        make_dataset(groups=groups), partitioner="group", num_nodes=6, num_server=0.3, num_public=0.4
    )
    holders = [splits.server_train, splits.server_validation, splits.public]
    holders += [np.concatenate([p.train, p.validation, p.test]) for p in splits.partitions]
    held = [set(groups[part]) for part in holders]
    assert sum(map(len, held)) == 20
    assert sorted(map(len, held[3:])) == [1] * 6
    assert [node.group for node in splits.partitions] == sorted(
        (node.group for node in splits.partitions), key=int
    )


def test_too_few_groups_for_server_and_nodes_are_shared_by_samples():
    groups = np.array([str(index % 6) for index in range(1000)])
    splits = split(
        make_dataset(groups=groups), partitioner="group", num_nodes=6, num_server=300, num_public=400
    )
    assert [node.group for node in splits.partitions] == ["0", "1", "2", "3", "4", "5"]
    assert len(splits.public) == 400


def test_groups_of_one_class_each_leave_the_server_with_every_class():
    splits = split(make_dataset(groups=BALANCED.astype(str)), partitioner="group", num_nodes=2)
    assert set(BALANCED[splits.server_train]) == {0, 1, 2, 3}


def test_grouped_node_keeps_the_last_stretch_of_each_class_for_its_test():
    groups = np.array([str(index // 100) for index in range(1000)])
    for node in split(make_dataset(groups=groups), partitioner="group", num_nodes=2).partitions:
        for label in set(BALANCED[node.test]):
            assert (
                node.train[BALANCED[node.train] == label].max()
                < node.test[BALANCED[node.test] == label].min()
            )


def test_sets_that_leave_nothing_private_are_refused():
    with pytest.raises(
        DataError, match=r"num_server \(600\) .*num_public \(400\) leave nothing private of 1000"
    ):
        split(num_server=600, num_public=400)


@pytest.mark.parametrize(("key", "least"), [("num_server", 2), ("num_public", 1)])
def test_fraction_of_no_samples_is_refused(key, least):
    with pytest.raises(
        DataError, match=f"data.{key} = 0.0001 comes to 0 of 1000 .* expected {least} or more"
    ):
        split(**{key: 0.0001})


def test_more_nodes_than_samples_are_refused():
    with pytest.raises(DataError, match="400 nodes but only 300 private samples"):
        split(num_nodes=400)


def test_nodes_without_data_are_named():
    with pytest.raises(DataError, match=r"node-0\d\d\d, .* of 40 nodes got no data"):
        split(num_nodes=40, alpha=0.01, min_samples_per_node=0)


def test_nodes_without_data_are_listed_empty_when_skipped():
    splits = split(num_nodes=40, alpha=0.01, min_samples_per_node=0, empty_nodes="skip")
    assert len(splits.partitions) == 40
    assert any(node.num_samples == 0 for node in splits.partitions)


def test_more_nodes_than_samples_can_be_skipped():
    splits = split(num_nodes=400, empty_nodes="skip")
    assert sum(node.num_samples for node in splits.partitions) == 300


def test_unknown_partitioner_names_the_nearest():
    with pytest.raises(ConfigError, match="unknown partitioner 'dirichlett'; did you mean 'dirichlet'"):
        split(partitioner="dirichlett")


def test_group_partitioner_without_groups_is_refused():
    with pytest.raises(DataError, match=r"set data.group_column"):
        split(partitioner="group")
