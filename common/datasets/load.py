"""From a built-in name or a path to a data set, or to samples for a prediction."""

from __future__ import annotations

import difflib
import math
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedstill.common.config import DataConfig
from fedstill.common.datasets.builtin import DATASETS
from fedstill.common.datasets.draws import complement, draw_groups, draw_stratified
from fedstill.common.datasets.hub import absolute_hub_source, is_hub_source, name_hub_source, read_hub
from fedstill.common.datasets.paths import read_path
from fedstill.common.datasets.reading import strip_suffixes
from fedstill.common.datasets.records import RAW_TASKS, Array, Content, Dataset, Part, ReadOptions, Samples
from fedstill.common.datasets.values import (
    cast_samples,
    check_samples,
    encode_labels,
    narrow_samples,
    resolve_layout,
)
from fedstill.common.errors import DataError
from fedstill.common.modules import is_reference
from fedstill.common.seeding import stream


def load_dataset(config: DataConfig, *, seed: int) -> Dataset:
    """Loads the data that a federation is about.

    Args:
        config: `source` is a built-in name, which goes before a path of that name, or
            a path relative to the working directory.
        seed: Seeds the cut of a test part, where the data has none: `test_fraction`
            of the samples, stratified by class, or about as many in whole groups.

    Returns:
        The data set.

    Raises:
        DataError: Unknown name, missing or damaged file, or content that is no labelled
            data set; one line says what.
    """
    origin = config.source
    if _is_named(origin):
        content, name = DATASETS[origin](), origin
        if config.group_column and (content.train is None or content.train.groups is None):
            raise DataError(f"data.group_column {config.group_column!r}: {origin} has no groups")
    elif is_hub_source(origin):
        options = ReadOptions(config.label_column, config.group_column, task=config.task)
        content, name = read_hub(origin, options), name_hub_source(origin)
    else:
        path = _find_path(origin)
        content = read_path(path, ReadOptions(config.label_column, config.group_column, task=config.task))
        name = strip_suffixes(path.resolve()) if path.is_file() else path.resolve().name
        _refuse_lost_groups(content, config)
    train, test = _both_parts(content, origin=origin, seed=seed, test_fraction=config.test_fraction)
    (y_train, y_test), class_names = encode_labels(
        [_labels(train, origin=origin), _labels(test, origin=origin)],
        class_names=content.class_names,
        origin=origin,
    )
    present = np.unique(y_train)
    if len(present) < 2:
        raise DataError(
            f"{origin}: all training samples are of one class, {class_names[present[0]]!r};"
            " expected two or more"
        )
    task, layout, x_train, x_test = _settle_samples(
        train.x, test.x, asked=config.task, found=content.task, origin=origin
    )
    return Dataset(
        name=name,
        task=task,
        layout=layout,
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        class_names=class_names,
        groups_train=train.groups,
        groups_test=test.groups,
        scale=content.scale,
        feature_names=content.feature_names,
    )


def _settle_samples(
    x_train: Array, x_test: Array, *, asked: str, found: str, origin: str
) -> tuple[str, str, Array, Array]:
    if asked not in ("auto", found) and (found or asked in RAW_TASKS):
        raise DataError(
            f"data.task = {asked!r}, but {origin} holds {found or 'numbers'}; leave data.task at auto"
        )
    if found:
        return found, "T", x_train, x_test
    if x_train.shape[1:] != x_test.shape[1:]:
        raise DataError(
            f"{origin}: training samples have shape {x_train.shape[1:]}, test samples {x_test.shape[1:]}"
        )
    x_train, x_test = narrow_samples([x_train, x_test], task=asked, origin=origin)
    task, layout, shape = resolve_layout(x_train.shape[1:], x_train.dtype, asked)
    x_train, x_test = (np.ascontiguousarray(x.reshape(-1, *shape)) for x in (x_train, x_test))
    return task, layout, x_train, x_test


def _is_named(source: str) -> bool:
    """Says whether a source is a name: the registry's goes before a path, module:function after it."""
    if source in DATASETS.names():
        return True
    return is_reference(source) and not is_hub_source(source) and not Path(source).exists()


def absolute_source(source: str) -> str:
    """Makes a path mean the same wherever a node runs; built-in names and missing paths stay as they are."""
    if _is_named(source):
        return source
    if is_hub_source(source):
        return absolute_hub_source(source)
    path = Path(os.path.expandvars(source)).expanduser()
    return str(path.resolve()) if path.exists() else source


def _find_path(source: str) -> Path:
    path = Path(os.path.expandvars(source)).expanduser()
    try:
        if path.exists():
            return path
    except (OSError, ValueError):
        # Too long a name, or a NUL in it: no path on this system.
        pass
    if unset := re.search(r"\$\{?(\w+)", str(path)):
        raise DataError(f"data.source {source!r}: the environment variable {unset.group(1)} is not set")
    near = difflib.get_close_matches(source.lower(), DATASETS.names(), n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise DataError(
        f"{source!r} is neither a built-in data set nor an existing path{hint}"
        f" Built in: {', '.join(DATASETS.names())}."
    )


def _refuse_lost_groups(content: Content, config: DataConfig) -> None:
    if config.group_column and content.train is not None and content.train.groups is None:
        raise DataError(
            f"data.group_column {config.group_column!r}: {config.source} has no groups;"
            " a CSV column or an array beside x and y in an .npz can name them"
        )


def _both_parts(content: Content, *, origin: str, seed: int, test_fraction: float) -> tuple[Part, Part]:
    if content.train is None:
        raise DataError(f"{origin} holds no training part")
    _check_part(content.train, origin=origin, task=content.task)
    if content.test is not None:
        _check_part(content.test, origin=f"{origin} (test part)", task=content.task)
        return content.train, content.test
    return _cut_test_part(content.train, origin=origin, seed=seed, test_fraction=test_fraction)


def _check_part(part: Part, *, origin: str, task: str) -> None:
    if not task:
        check_samples(part.x, origin=origin)
    if part.y is not None and len(part.y) != len(part.x):
        raise DataError(f"{origin}: expected one label per sample, got {len(part.y)} for {len(part.x)}")


def _labels(part: Part, *, origin: str) -> Array:
    if part.y is None:
        raise DataError(f"{origin} has no labels; training and evaluation need them")
    return part.y


def _cut_test_part(whole: Part, *, origin: str, seed: int, test_fraction: float) -> tuple[Part, Part]:
    num_samples = len(whole.x)
    num_test = max(1, round(num_samples * test_fraction))
    rng = stream(seed, "test-part")
    if whole.groups is not None:
        test = draw_groups(whole.groups, num_test, rng)
    else:
        labels = np.unique(_labels(whole, origin=origin), return_inverse=True)[1]
        test = draw_stratified(labels, num_test, rng)
    if len(test) == num_samples:
        raise DataError(
            f"{origin}: {num_samples} samples"
            f"{'' if whole.groups is None else ' of one group'} are too few to cut a test part from"
        )
    return whole.take(complement(test, num_samples)), whole.take(test)


def read_samples(
    source: Path,
    *,
    split: str = "test",
    label_column: str = "label",
    expected_shape: tuple[int, ...] | None = None,
    expected_dtype: str | None = None,
    class_names: tuple[str, ...] = (),
    feature_names: tuple[str, ...] = (),
    task: str = "auto",
    seed: int = 0,
    test_fraction: float = 0.2,
) -> Samples:
    """Reads samples to predict, labelled or not, in the order of their file.

    Args:
        source: A path in any supported format, or a built-in name.
        split: "test", "train" or "all". A file without a test part of its own is read
            whole for "test" and "all"; one without a training part for "all" too.
        label_column: Column of a CSV that is no feature, if it is there.
        expected_shape: Shape of one sample as the model takes it; flat samples of as
            many values are brought to it, row by row. None: as the file has them.
        expected_dtype: Dtype that the model takes. None: as `load_dataset` would choose.
        class_names: Names of the classes, to which labels are mapped.
        feature_names: Columns of a CSV in the model's order; others are left out.
        task: Kind of samples that the model takes; text and sequences stay as they are.
        seed: Seed of the cut, for a built-in data set.
        test_fraction: Size of the cut, for a built-in data set.

    Returns:
        Samples, and labels if there are any.

    Raises:
        DataError: Nothing readable, no such part, or samples of another shape or dtype.
    """
    if split not in ("test", "train", "all"):
        raise DataError(f"unknown split {split!r}; known: test, train, all")
    origin = str(source)
    options = ReadOptions(label_column, feature_names=feature_names, need_labels=False, task=task)
    part, content = _read_split(source, split, options, seed=seed, test_fraction=test_fraction)
    _check_part(part, origin=origin, task=content.task)
    if task != "auto" and content.task != (task if task in RAW_TASKS else ""):
        raise DataError(f"{origin}: expected {task} samples, got {content.task or 'numbers'}")
    x = part.x if content.task else fit_shape(part.x, expected_shape, origin=origin)
    if not content.task and expected_dtype is None:
        (x,) = narrow_samples([x], task="auto", origin=origin)
    elif not content.task:
        x = cast_samples(x, np.dtype(expected_dtype), origin=origin)
    if part.y is None:
        return Samples(np.ascontiguousarray(x), None)
    names = class_names or content.class_names
    if part.y.dtype.kind != "U" and not names:
        return Samples(np.ascontiguousarray(x), part.y)
    (y,), _ = encode_labels([part.y], class_names=names, origin=origin)
    return Samples(np.ascontiguousarray(x), y)


def _read_split(
    source: Path,
    split: str,
    options: ReadOptions,
    *,
    seed: int,
    test_fraction: float,
) -> tuple[Part, Content]:
    origin = str(source)
    if _is_named(origin):
        content = DATASETS[origin]()
        if split != "all" and content.train is not None:
            train, test = _cut_test_part(content.train, origin=origin, seed=seed, test_fraction=test_fraction)
            content = replace(content, train=train, test=test)
    else:
        wanted = frozenset({"train", "test"} if split == "all" else {split})
        options = replace(options, parts=wanted)
        content = (
            read_hub(origin, options) if is_hub_source(origin) else read_path(_find_path(origin), options)
        )
    train_part, test_part = content.train, content.test
    if split == "train" and train_part is None:
        raise DataError(f"{origin} has no training part; ask for the split test or all")
    if split == "train" or test_part is None:
        chosen = train_part
    elif split == "test" or train_part is None:
        chosen = test_part
    else:
        chosen = _join(train_part, test_part, content.test_mask, origin=origin)
    if chosen is None:
        raise DataError(f"{origin} holds no samples")
    return chosen, content


def _join(train: Part, test: Part, test_mask: Array | None, *, origin: str) -> Part:
    if train.x.shape[1:] != test.x.shape[1:]:
        raise DataError(f"{origin}: training samples have shape {train.x.shape[1:]}, test {test.x.shape[1:]}")
    labelled = train.y is not None and test.y is not None
    both = Part(
        np.concatenate([train.x, test.x]),
        np.concatenate([train.y, test.y]) if labelled else None,
    )
    if test_mask is None:
        return both
    order = np.concatenate([np.flatnonzero(~test_mask), np.flatnonzero(test_mask)])
    return both.take(np.argsort(order, kind="stable"))


def fit_shape(x_S: Array, expected: tuple[int, ...] | None, *, origin: str) -> Array:
    got = x_S.shape[1:]
    if expected is None or got == tuple(expected):
        return x_S
    if math.prod(got) == math.prod(expected) and 1 in (len(got), len(expected)):
        return x_S.reshape(-1, *expected)
    raise DataError(f"{origin}: expected samples of shape {tuple(expected)}, got {tuple(got)}")
