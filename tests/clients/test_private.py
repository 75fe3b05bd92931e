"""A node's own partition."""

import dataclasses

import numpy as np
import pytest

from fedstill.clients.private import (
    LabelledSamples,
    PrivateData,
    check_private,
    digest_private,
    encode_private,
    load_private,
    load_public_samples,
    name_node,
)
from fedstill.common.config import build_config
from fedstill.common.datasets import load_dataset, split_dataset
from fedstill.common.datasets.values import as_texts
from fedstill.common.encoders import Encoder
from fedstill.common.errors import DataError
from fedstill.common.models import measure_input
from fedstill.common.wire import input_to_proto

CONFIG = build_config({"federation.num_nodes": 4, "federation.partitioner": "iid"})


def load(index=1):
    return load_private(CONFIG, {"partition-id": index})


@pytest.fixture(scope="module")
def spec():
    dataset = load_dataset(CONFIG.data, seed=CONFIG.seed)
    return measure_input(dataset.x_train, task=dataset.task, layout=dataset.layout, scale=dataset.scale)


def test_a_node_is_named_by_its_partition():
    assert name_node({"partition-id": 3}, CONFIG) == "node-0003"


def test_flowers_text_values_are_read_too():
    assert name_node({"partition-id": "3"}, CONFIG) == "node-0003"


def test_a_node_beyond_the_federation_has_no_name():
    assert name_node({"partition-id": 4}, CONFIG) is None


def test_a_node_without_partition_is_refused():
    with pytest.raises(DataError, match=r"expected partition-id in the node's configuration, got \['zone'\]"):
        name_node({"zone": 1}, CONFIG)


@pytest.mark.parametrize("index", [-1, "x", None, ""])
def test_a_partition_that_is_no_number_from_zero_is_refused(index):
    with pytest.raises(DataError, match="expected partition-id to be 0 or more"):
        name_node({"partition-id": index}, CONFIG)


def test_loading_beyond_the_federation_is_refused():
    with pytest.raises(DataError, match=r"partition-id 4 is beyond federation.num_nodes = 4"):
        load(4)


def test_a_node_sees_its_partition():
    dataset = load_dataset(CONFIG.data, seed=CONFIG.seed)
    splits = split_dataset(dataset, data=CONFIG.data, federation=CONFIG.federation, seed=CONFIG.seed)
    private = load(1)
    np.testing.assert_array_equal(private.train.x_S, dataset.x_train[splits.partitions[1].train])
    np.testing.assert_array_equal(private.test.y_S, dataset.y_train[splits.partitions[1].test])
    np.testing.assert_array_equal(load_public_samples(CONFIG), dataset.x_train[splits.public])


def test_digest_is_the_same_on_repeat_and_another_for_another_node():
    assert digest_private(load(1)) == digest_private(load(1)) != digest_private(load(2))


def test_digest_changes_with_one_label():
    private = load(1)
    labels = private.test.y_S.copy()
    labels[0] = (labels[0] + 1) % 10
    changed = dataclasses.replace(private, test=LabelledSamples(private.test.x_S, labels))
    assert digest_private(changed) != digest_private(private)


def test_fitting_data_passes(spec):
    check_private(load(1), spec, num_classes=10)


@pytest.mark.parametrize("change", [{"sample_shape": (8, 9)}, {"dtype": "float32"}])
def test_samples_of_another_kind_are_refused(spec, change):
    with pytest.raises(DataError, match=r"node-0001: expected samples .* got \(8, 8\) of uint8"):
        check_private(load(1), dataclasses.replace(spec, **change), num_classes=10)


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_a_class_that_the_coordinator_does_not_know_is_refused(spec, part):
    private = load(1)
    samples = getattr(private, part)
    labels = samples.y_S.copy()
    labels[0] = 10
    changed = dataclasses.replace(private, **{part: LabelledSamples(samples.x_S, labels)})
    with pytest.raises(DataError, match="node-0001: expected classes below 10, got 10"):
        check_private(changed, spec, num_classes=10)


def raw_private(*texts):
    parts = [LabelledSamples(as_texts([text, "the end"]), np.arange(2)) for text in texts]
    return PrivateData("node-0001", "", *parts)


def test_raw_text_becomes_ids_once_per_process():
    encoder, private = Encoder("words", ("the", "cat"), 3), raw_private("the cat", "a cat", "cat")
    encoded = encode_private(private, encoder)
    assert encoded.train.x_S.tolist() == [[2, 3, 0], [2, 1, 0]]
    assert encoded.test.y_S.tolist() == [0, 1]
    assert encode_private(raw_private("the cat", "a cat", "cat"), encoder) is encoded
    assert encode_private(raw_private("the dog", "a cat", "cat"), encoder) is not encoded


def test_numbers_stay_as_they_are():
    private = load(1)
    assert encode_private(private, Encoder("words", ("the",), 3)) is private


def test_digest_of_raw_text_is_that_of_its_content():
    first, same, moved = (
        raw_private(*texts) for texts in (("ab", "c", "d"), ("ab", "c", "d"), ("a", "bc", "d"))
    )
    assert digest_private(first) == digest_private(same) != digest_private(moved)


OWN = build_config({"data.private": "nodes", "federation.num_nodes": 2})


def expected_input():
    dataset = load_dataset(CONFIG.data, seed=CONFIG.seed)
    spec = measure_input(dataset.x_train, task=dataset.task, layout=dataset.layout, scale=dataset.scale)
    return input_to_proto(spec, class_names=dataset.class_names, feature_names=())


@pytest.fixture
def own_data(tmp_path):
    dataset = load_dataset(CONFIG.data, seed=CONFIG.seed)
    of_few_classes = np.flatnonzero(np.isin(dataset.y_train, (3, 7)))[:40]
    path = tmp_path / "own.npz"
    np.savez(path, x=dataset.x_train[of_few_classes], y=dataset.y_train[of_few_classes])
    return {"node-id": "kitchen", "data-source": str(path)}


def test_a_device_reads_its_own_data_by_the_coordinators_classes(own_data):
    private = load_private(OWN, own_data, expected_input())
    assert private.node_id == "kitchen"
    assert [len(part) for part in (private.train, private.validation, private.test)] == [28, 4, 8]
    assert set(private.train.y_S.tolist()) == {3, 7}


def test_a_devices_parts_are_the_same_each_time(own_data):
    first, second = (load_private(OWN, own_data, expected_input()) for _ in range(2))
    assert digest_private(first) == digest_private(second)


def test_only_the_name_is_needed_to_close_a_run(own_data):
    private = load_private(OWN, own_data)
    assert private.node_id == "kitchen"
    assert not len(private.train)


def test_a_device_without_data_of_its_own_is_refused():
    with pytest.raises(DataError, match=r"expected node-id and data-source .* got \['node-id'\]"):
        load_private(OWN, {"node-id": "kitchen"}, expected_input())


def test_own_data_without_labels_is_refused(tmp_path, own_data):
    np.savez(tmp_path / "bare.npz", x=np.zeros((4, 8, 8), np.uint8))
    own_data["data-source"] = str(tmp_path / "bare.npz")
    with pytest.raises(DataError, match="labels"):
        load_private(OWN, own_data, expected_input())


def test_a_named_device_needs_a_partition_where_the_source_is_split(own_data):
    with pytest.raises(DataError, match="kitchen has no partition-id"):
        load_private(CONFIG, own_data, expected_input())


def test_a_source_that_nodes_share_no_part_of_may_be_used_up():
    config = build_config({"data.private": "nodes", "data.num_server": 0.5, "data.num_public": 0.5})
    dataset = load_dataset(config.data, seed=0)
    splits = split_dataset(dataset, data=config.data, federation=config.federation, seed=0)
    assert splits.partitions == ()
    assert len(splits.server_train) + len(splits.server_validation) + len(splits.public) == len(
        dataset.y_train
    )
