"""The records that data travels in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedstill.common.partitioners import Indices

Array = NDArray[Any]
# Kinds of samples that are raw text, of which an encoder makes ids.
RAW_TASKS = ("text", "sequence")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled samples with a training and a test part.

    `x_…` has shape (S, *sample_shape) and dtype uint8, int16 or float32, raw as the
    file has it; a raw value times `scale` is its value in the data's own unit. Text and
    sequences are object arrays (S,) of str until an encoder has made ids of them.
    `y_…` is int64 in [0, C). `layout` names the axes of one sample: H height, W width,
    C channel, T time, F feature. `groups_…` names the person, site or species of each
    sample, None if unknown. `feature_names` names a CSV's columns in the order of F.
    """

    name: str
    task: str
    layout: str
    x_train: Array
    y_train: NDArray[np.int64]
    x_test: Array
    y_test: NDArray[np.int64]
    class_names: tuple[str, ...]
    groups_train: Array | None = None
    groups_test: Array | None = None
    scale: float = 1.0
    feature_names: tuple[str, ...] = ()
    texts_train: Array | None = None
    """Raw samples (S,) of str beside their ids, where an encoder made any; private ones are empty."""
    texts_test: Array | None = None

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.x_train.shape[1:])

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.class_names)


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples to predict, in the order of their file; `y` is None where they are unlabelled."""

    x: Array
    y: NDArray[np.int64] | None


@dataclass(frozen=True, eq=False)
class Part:
    """Samples of a file as it has them; `y` holds int64 or text."""

    x: Array
    y: Array | None = None
    groups: Array | None = None

    def take(self, indices: Array) -> Part:
        """Picks samples by index or mask."""
        return Part(
            self.x[indices],
            None if self.y is None else self.y[indices],
            None if self.groups is None else self.groups[indices],
        )


@dataclass(frozen=True, eq=False)
class Content:
    """What a file or a folder holds.

    Without a test part of its own everything is in `train`. `test_mask` tells where
    the samples of both parts stood, if one file held them mixed.
    """

    train: Part | None = None
    test: Part | None = None
    test_mask: NDArray[np.bool_] | None = None
    class_names: tuple[str, ...] = ()
    scale: float = 1.0
    feature_names: tuple[str, ...] = ()
    task: str = ""
    """What only the reader can tell: "text" or "sequence"."""


@dataclass(frozen=True)
class ReadOptions:
    """What a reader is asked for.

    `parts` are the parts wanted ("train", "test"), so that a large part that nobody
    asked for stays on disk; a file without a test part of its own is read anyway.
    `task` is the kind of samples asked for, "auto" where the file decides.
    """

    label_column: str = "label"
    group_column: str = ""
    feature_names: tuple[str, ...] = ()
    need_labels: bool = True
    parts: frozenset[str] = frozenset({"train", "test"})
    task: str = "auto"


def read_wanted(
    options: ReadOptions, *, train: Callable[[], Part] | None, test: Callable[[], Part] | None
) -> tuple[Part | None, Part | None]:
    """Reads the parts that are there and wanted."""
    wants_train = "train" in options.parts or test is None
    return (
        train() if train and wants_train else None,
        test() if test and "test" in options.parts else None,
    )


@dataclass(frozen=True, eq=False)
class Partition:
    """One node's private data: indices into the training part, and the groups they come from."""

    train: Indices
    validation: Indices
    test: Indices
    group: str = ""

    @property
    def num_samples(self) -> int:
        """Samples of all three parts."""
        return len(self.train) + len(self.validation) + len(self.test)


@dataclass(frozen=True, eq=False)
class Splits:
    """Who holds what: disjoint, sorted indices into the training part that cover it."""

    server_train: Indices
    server_validation: Indices
    public: Indices
    partitions: tuple[Partition, ...]
