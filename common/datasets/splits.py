"""Who holds what: the server's set, the public set and the nodes' partitions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedstill.common.config import DataConfig, FederationConfig
from fedstill.common.datasets.draws import complement, draw_groups, draw_last_of_classes, draw_stratified
from fedstill.common.datasets.records import Dataset, Partition, Splits
from fedstill.common.errors import ConfigError, DataError
from fedstill.common.modules import call_foreign
from fedstill.common.partitioners import PARTITIONERS, Indices, PartitionOptions, sort_groups
from fedstill.common.seeding import stream

# So that no rounding error of a float takes a sample from a part.
_EPSILON = 1e-9


def split_dataset(dataset: Dataset, *, data: DataConfig, federation: FederationConfig, seed: int) -> Splits:
    """Splits the training part among the server, the public and the nodes.

    Without groups, server's and public set are stratified draws of exactly the number
    asked for. With groups they are made of whole groups, in about that number, so
    that nobody's samples lie on two sides; unless that would leave fewer groups than
    the partitioner needs, or the server without a class: then they are drawn from
    samples as without groups.

    A node's test and validation part are its shares rounded down, so a partition with
    fewer than 1 / fraction samples has no such part, and its training part is never
    empty. They are stratified; where there are groups they are the last stretch of
    each class instead of a random draw, because neighbouring windows overlap.

    Args:
        dataset: The data set; its test part is not touched.
        data: Sizes of the parts, as counts or as fractions of the training part.
        federation: Nodes and partitioner.
        seed: The run's seed.

    Returns:
        The splits, the same for the same arguments everywhere; without partitions where
        nodes bring their own data.

    Raises:
        ConfigError: Unknown partitioner.
        DataError: Sizes that leave nothing private, or nodes left without data
            (unless `federation.empty_nodes` is "skip").
    """
    PARTITIONERS[federation.partitioner]  # refused before anything is cut
    num_samples = len(dataset.y_train)
    num_server = _count(data.num_server, num_samples, key="data.num_server", least=2)
    num_public = _count(data.num_public, num_samples, key="data.num_public", least=1)
    brings_own = data.private == "nodes"
    if num_server + num_public > num_samples or (num_server + num_public == num_samples and not brings_own):
        raise DataError(
            f"data.num_server ({num_server}) and data.num_public ({num_public}) leave nothing private of"
            f" {num_samples} training samples; lower one of them"
        )
    sets = _draw_whole_groups(dataset, num_server, num_public, federation=federation, seed=seed)
    by_group = sets is not None
    server, public = sets or _draw_samples(dataset.y_train, num_server, num_public, seed=seed)
    validation = _draw_validation(
        dataset, server, fraction=data.server_validation_fraction, by_group=by_group, seed=seed
    )
    private = complement(np.concatenate([server, public]), num_samples)
    return Splits(
        server_train=np.setdiff1d(server, validation),
        server_validation=validation,
        public=public,
        partitions=()
        if brings_own
        else _partition(dataset, private, data=data, federation=federation, seed=seed),
    )


def _count(asked: float, num_samples: int, *, key: str, least: int) -> int:
    count = round(asked * num_samples) if asked <= 1 else int(asked)
    if count < least:
        raise DataError(
            f"{key} = {asked:g} comes to {count} of {num_samples} training samples; expected {least} or more"
        )
    return count


def _draw_samples(
    labels_S: NDArray[np.int64], num_server: int, num_public: int, *, seed: int
) -> tuple[Indices, Indices]:
    server = draw_stratified(labels_S, num_server, stream(seed, "server-set"))
    rest = complement(server, len(labels_S))
    return server, rest[draw_stratified(labels_S[rest], num_public, stream(seed, "public-set"))]


def _draw_whole_groups(
    dataset: Dataset, num_server: int, num_public: int, *, federation: FederationConfig, seed: int
) -> tuple[Indices, Indices] | None:
    groups_S = dataset.groups_train
    if groups_S is None:
        return None
    server = draw_groups(groups_S, num_server, stream(seed, "server-set"))
    rest = complement(server, len(groups_S))
    if not len(rest):
        return None
    public = rest[draw_groups(groups_S[rest], num_public, stream(seed, "public-set"))]
    private = np.setdiff1d(rest, public)
    needed = federation.num_nodes if federation.partitioner == "group" else 1
    has_groups = len(np.unique(groups_S[private])) >= needed
    has_classes = len(np.unique(dataset.y_train[server])) == len(np.unique(dataset.y_train))
    return (server, public) if has_groups and has_classes else None


def _draw_validation(
    dataset: Dataset, server: Indices, *, fraction: float, by_group: bool, seed: int
) -> Indices:
    num_drawn = min(max(1, round(len(server) * fraction)), len(server) - 1)
    rng = stream(seed, "server-validation")
    if by_group and dataset.groups_train is not None:
        groups_S = dataset.groups_train[server]
        if len(np.unique(groups_S)) > 1:
            drawn = draw_groups(groups_S, num_drawn, rng)
            if len(drawn) < len(server):
                return server[drawn]
    return server[draw_stratified(dataset.y_train[server], num_drawn, rng)]


def _partition(
    dataset: Dataset, private: Indices, *, data: DataConfig, federation: FederationConfig, seed: int
) -> tuple[Partition, ...]:
    num_nodes = federation.num_nodes
    refuses = federation.empty_nodes == "refuse"
    if refuses and num_nodes > len(private):
        raise DataError(
            f"{num_nodes} nodes but only {len(private)} private samples; lower federation.num_nodes,"
            " data.num_server or data.num_public, or set federation.empty_nodes = 'skip'"
        )
    minimum = federation.min_samples_per_node
    if not refuses and minimum * num_nodes > len(private):
        minimum = 0
    groups = dataset.groups_train
    parts = call_foreign(
        PARTITIONERS[federation.partitioner],
        dataset.y_train[private],
        None if groups is None else groups[private],
        num_nodes=num_nodes,
        rng=stream(seed, "partition"),
        options=PartitionOptions(federation.alpha, minimum, federation.labels_per_node),
        name=federation.partitioner,
        key="federation.partitioner",
    )
    if federation.partitioner not in PARTITIONERS.built_in:
        parts = _check_parts(parts, federation, num_samples=len(private))
    empty = [_node_id(index) for index, part in enumerate(parts) if not len(part)]
    if refuses and empty:
        more = f" and {len(empty) - 8} more" if len(empty) > 8 else ""
        raise DataError(
            f"{', '.join(empty[:8])}{more} of {num_nodes} nodes got no data; lower federation.num_nodes,"
            " raise federation.alpha or min_samples_per_node, or set federation.empty_nodes = 'skip'"
        )
    return tuple(
        _cut_partition(
            dataset, private[part], data=data, rng=stream(seed, "node-parts", node=_node_id(index))
        )
        for index, part in enumerate(parts)
    )


def _check_parts(parts: Any, federation: FederationConfig, *, num_samples: int) -> list[Indices]:
    """Refuses what a stranger's partitioner should not have returned."""
    name = f"federation.partitioner: {federation.partitioner}"
    if not isinstance(parts, list | tuple) or len(parts) != federation.num_nodes:
        found = f"{len(parts)} parts" if isinstance(parts, list | tuple) else type(parts).__name__
        raise ConfigError(f"{name} should return a list of {federation.num_nodes} arrays, got {found}")
    dealt = [np.asarray(part, np.int64).reshape(-1) for part in parts]
    counts = np.bincount(np.concatenate(dealt).clip(0, num_samples), minlength=num_samples)
    if len(counts) > num_samples or (counts != 1).any():
        raise ConfigError(f"{name} should deal each of {num_samples} samples to exactly one node")
    return [np.sort(part) for part in dealt]


def _node_id(index: int) -> str:
    return f"node-{index:04d}"


def _cut_partition(
    dataset: Dataset, members: Indices, *, data: DataConfig, rng: np.random.Generator
) -> Partition:
    num_test = int(len(members) * data.private_test_fraction + _EPSILON)
    num_validation = int(len(members) * data.private_validation_fraction + _EPSILON)
    rest, test = _take_off(dataset, members, num_test, rng)
    train, validation = _take_off(dataset, rest, num_validation, rng)
    groups = dataset.groups_train
    return Partition(
        train, validation, test, "" if groups is None else ", ".join(sort_groups(groups[members]))
    )


def cut_private(
    labels_S: NDArray[np.int64], *, data: DataConfig, rng: np.random.Generator
) -> tuple[Indices, Indices, Indices]:
    """Cuts a device's own samples into training, validation and test part, as a partition is cut.

    Args:
        labels_S: Classes of all its samples.
        data: Sizes of the parts, as fractions.
        rng: Source of randomness.

    Returns:
        Sorted indices of the three parts.
    """
    members = np.arange(len(labels_S))
    parts = []
    for fraction in (data.private_test_fraction, data.private_validation_fraction):
        taken = draw_stratified(labels_S[members], int(len(labels_S) * fraction + _EPSILON), rng)
        parts.append(members[taken])
        members = members[complement(taken, len(members))]
    test, validation = parts
    return members, validation, test


def _take_off(
    dataset: Dataset, members: Indices, num_taken: int, rng: np.random.Generator
) -> tuple[Indices, Indices]:
    draw = draw_stratified if dataset.groups_train is None else draw_last_of_classes
    taken = draw(dataset.y_train[members], num_taken, rng)
    return members[complement(taken, len(members))], members[taken]
