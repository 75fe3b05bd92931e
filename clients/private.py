"""A node's private data: its partition of the data source, in memory once per process."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedstill.clients.node_config import DATA_SOURCE, NODE_ID
from fedstill.common.config import Config, DataConfig, FederationConfig
from fedstill.common.datasets import Dataset, Splits, cut_private, load_dataset, read_samples, split_dataset
from fedstill.common.encoders import Encoder
from fedstill.common.errors import DataError
from fedstill.common.models import InputSpec
from fedstill.common.seeding import stream
from fedstill.protos.fedstill.v1 import fleet_pb2


@dataclass(frozen=True)
class LabelledSamples:
    """Raw samples (S, *sample_shape) and their classes (S,), int64."""

    x_S: np.ndarray
    y_S: np.ndarray

    def __len__(self) -> int:
        return len(self.y_S)


@dataclass(frozen=True)
class PrivateData:
    """What only this node sees."""

    node_id: str
    group: str
    train: LabelledSamples
    validation: LabelledSamples
    test: LabelledSamples


def name_node(node_config: Mapping[str, Any], config: Config) -> str | None:
    """Names the node: by its enrolment name on a device, else by its partition.

    Args:
        node_config: Flower's node configuration, with `node-id` or `partition-id`.
        config: The run's configuration.

    Returns:
        A name such as "node-0007"; None for a node that this federation has no
        partition for.

    Raises:
        DataError: The node does not say which partition is its own.
    """
    if NODE_ID in node_config:
        return str(node_config[NODE_ID])
    if "partition-id" not in node_config:
        raise DataError(f"expected partition-id in the node's configuration, got {sorted(node_config)}")
    try:
        index = int(node_config["partition-id"])
    except (TypeError, ValueError):
        index = -1
    if index < 0:
        raise DataError(f"expected partition-id to be 0 or more, got {node_config['partition-id']!r}")
    return f"node-{index:04d}" if index < config.federation.num_nodes else None


def load_private(
    config: Config, node_config: Mapping[str, Any], expected: fleet_pb2.InputSpec | None = None
) -> PrivateData:
    """Loads a node's private data: its partition of the run's data, or its own files.

    Args:
        config: The run's configuration.
        node_config: Flower's node configuration, with `partition-id`; or with `node-id`
            and `data-source`, a path on this device.
        expected: What the coordinator's samples and classes look like; a device's own
            files are read by it. None where only the node's name is needed.

    Returns:
        The node's samples, in the order of the partition.

    Raises:
        DataError: The data cannot be read or split.
    """
    node_id = name_node(node_config, config)
    if config.data.private == "nodes":
        return _load_own(config, node_config, node_id, expected)
    if node_id is None:
        raise DataError(
            f"partition-id {node_config['partition-id']} is beyond federation.num_nodes ="
            f" {config.federation.num_nodes}"
        )
    dataset, splits = _open_data(config.data, config.federation, config.seed)
    if "partition-id" not in node_config:
        raise DataError(f"{node_id} has no partition-id; give it one, or set data.private = 'nodes'")
    partition = splits.partitions[int(node_config["partition-id"])]
    parts = [
        LabelledSamples(dataset.x_train[indices], dataset.y_train[indices])
        for indices in (partition.train, partition.validation, partition.test)
    ]
    return PrivateData(node_id, partition.group, *parts)


def _load_own(
    config: Config,
    node_config: Mapping[str, Any],
    node_id: str | None,
    expected: fleet_pb2.InputSpec | None,
) -> PrivateData:
    source = str(node_config.get(DATA_SOURCE, ""))
    if node_id is None or not source:
        raise DataError(
            f"data.private = 'nodes': expected {NODE_ID} and {DATA_SOURCE} in the node's configuration,"
            f" got {sorted(node_config)}"
        )
    if expected is None:
        nothing = LabelledSamples(np.empty(0, np.float32), np.empty(0, np.int64))
        return PrivateData(node_id, "", nothing, nothing, nothing)
    samples = read_samples(
        Path(os.path.expandvars(source)).expanduser(),
        split="all",
        label_column=config.data.label_column,
        expected_shape=None if expected.num_ids else tuple(expected.sample_shape),
        expected_dtype=None if expected.num_ids else expected.dtype,
        class_names=tuple(expected.class_names),
        feature_names=tuple(expected.feature_names),
        task=expected.task,
        seed=config.seed,
        test_fraction=config.data.test_fraction,
    )
    if samples.y is None:
        raise DataError(f"{source} has no labels; a node's own data needs them")
    parts = cut_private(samples.y, data=config.data, rng=stream(config.seed, "node-parts", node=node_id))
    return PrivateData(
        node_id, "", *(LabelledSamples(samples.x[indices], samples.y[indices]) for indices in parts)
    )


def load_public_samples(config: Config, encoder: Encoder | None = None) -> np.ndarray:
    """Takes the public samples from the node's own copy of the data, encoded if they are text."""
    return _load_public(config.data, config.federation, config.seed, encoder)


@functools.lru_cache(maxsize=1)
def _load_public(
    data: DataConfig, federation: FederationConfig, seed: int, encoder: Encoder | None
) -> np.ndarray:
    dataset, splits = _open_data(data, federation, seed)
    samples = dataset.x_train[splits.public]
    return samples if encoder is None else encoder.encode(samples)


@dataclass(frozen=True)
class _RawPartition:
    digest: str
    private: PrivateData = field(compare=False)


def encode_private(private: PrivateData, encoder: Encoder) -> PrivateData:
    """Makes ids of a node's raw text, once per process.

    Args:
        private: The node's samples as the data source has them.
        encoder: The coordinator's encoder.

    Returns:
        The same samples as ids; samples that are numbers stay as they are.
    """
    if private.train.x_S.dtype != object:
        return private
    return _encode(_RawPartition(digest_private(private), private), encoder)


@functools.lru_cache(maxsize=1024)
def _encode(raw: _RawPartition, encoder: Encoder) -> PrivateData:
    train, validation, test = (
        LabelledSamples(encoder.encode(part.x_S), part.y_S)
        for part in (raw.private.train, raw.private.validation, raw.private.test)
    )
    return replace(raw.private, train=train, validation=validation, test=test)


@functools.lru_cache(maxsize=1)
def _open_data(data: DataConfig, federation: FederationConfig, seed: int) -> tuple[Dataset, Splits]:
    dataset = load_dataset(data, seed=seed)
    return dataset, split_dataset(dataset, data=data, federation=federation, seed=seed)


def digest_private(private: PrivateData) -> str:
    """Computes the SHA-256 over a node's samples and labels, hexadecimal."""
    digest = hashlib.sha256()
    for part in (private.train, private.validation, private.test):
        if part.x_S.dtype == object:
            for text in part.x_S:
                digest.update(f"{len(text)}\x1f{text}".encode())
        else:
            digest.update(np.ascontiguousarray(part.x_S).tobytes())
        digest.update(part.y_S.tobytes())
    return digest.hexdigest()


def check_private(private: PrivateData, spec: InputSpec, *, num_classes: int) -> None:
    """Compares a node's data with what the coordinator's models take.

    Raises:
        DataError: Another shape or type, or a class that the coordinator does not know.
    """
    shape, dtype = private.train.x_S.shape[1:], str(private.train.x_S.dtype)
    if shape != spec.sample_shape or dtype != spec.dtype:
        raise DataError(
            f"{private.node_id}: expected samples {spec.sample_shape} of {spec.dtype}, got {shape} of {dtype}"
        )
    for part in (private.train, private.validation, private.test):
        if len(part) and part.y_S.max() >= num_classes:
            raise DataError(f"{private.node_id}: expected classes below {num_classes}, got {part.y_S.max()}")
