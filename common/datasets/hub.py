"""Data sets of the Hugging Face hub, or in its local form, through flwr-datasets: `hf:NAME`.

hf:ylecun/mnist          a data set of the hub
hf:owner/name@subset     one of its subsets
hf:path/to/folder        Parquet, CSV, JSON or image files as `datasets` opens them
hf:path/to/file.parquet  one such file
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedstill.common.datasets.paths import HUB_PREFIX as PREFIX
from fedstill.common.datasets.records import RAW_TASKS, Array, Content, Part, ReadOptions
from fedstill.common.datasets.values import as_labels, as_texts
from fedstill.common.errors import DataError
from fedstill.common.installation import install_command

_FORMATS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json", ".arrow": "arrow"}
_TEXT_NAMES = ("text", "sequence", "content", "sentence")
_LISTS = ("List", "LargeList", "Sequence", "Array2D", "Array3D", "Array4D", "Array5D")


def is_hub_source(source: str) -> bool:
    """Tells whether a source is to be read by flwr-datasets."""
    return source.startswith(PREFIX)


def absolute_hub_source(source: str) -> str:
    """Makes the path in a source mean the same wherever a node runs; names of the hub stay."""
    path = Path(os.path.expandvars(source.removeprefix(PREFIX))).expanduser()
    return f"{PREFIX}{path.resolve()}" if path.exists() else source


def name_hub_source(source: str) -> str:
    """Names the data set of a source."""
    return Path(source.removeprefix(PREFIX)).stem


def read_hub(source: str, options: ReadOptions) -> Content:
    """Reads a data set through flwr-datasets.

    The class is `options.label_column`, or the one column that `datasets` knows to hold
    classes. The samples are the one column of images, of arrays or of text; or else all columns
    of numbers.

    Args:
        source: "hf:" and a name or path.
        options: What is asked for.

    Returns:
        The content: its splits "train" and "test"; a split "validation" stays aside.

    Raises:
        DataError: The package is missing, the hub is out of reach or has no such data set, or
            its columns cannot be told apart.
    """
    splits = _load_splits(source)
    if "train" not in splits and "test" not in splits:
        raise DataError(f"{source}: expected a split named train or test, got {', '.join(splits) or 'none'}")
    wanted = {name: split for name, split in splits.items() if name in ("train", "test")}
    features = next(iter(wanted.values())).features
    label = _find_label(source, features, options)
    samples = _find_samples(source, features, label, options)
    parts = {name: _read_part(source, split, label, samples, options) for name, split in wanted.items()}
    kind = _kind(features[samples[0]])
    task = ""
    if kind == "text":
        is_sequence = options.task == "sequence" or (options.task == "auto" and samples[0] == "sequence")
        task = "sequence" if is_sequence else "text"
    names = tuple(getattr(features[label], "names", None) or ()) if label else ()
    scalar = kind == "number" or task in RAW_TASKS
    return Content(
        parts.get("train"),
        parts.get("test"),
        class_names=names,
        feature_names=tuple(samples) if scalar else (),
        task=task,
    )


def _load_splits(source: str) -> dict[str, Any]:
    name = os.path.expandvars(source.removeprefix(PREFIX))
    # Neither library shall tell anybody what is read here.
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import datasets
        from flwr_datasets import FederatedDataset
    except ModuleNotFoundError as error:
        raise DataError(
            f"{source} needs flwr-datasets, and {error.name or 'it'} is not installed:"
            f" {install_command('datasets')}"
        ) from None
    except ImportError as error:
        raise DataError(f"{source} needs flwr-datasets, which does not load here: {error}") from None
    datasets.disable_progress_bars()
    path, subset = Path(name).expanduser(), None
    arguments: dict[str, Any] = {"dataset": str(path) if path.exists() else name}
    if path.is_file():
        if path.suffix not in _FORMATS:
            raise DataError(f"{source}: expected a folder or one of *{', *'.join(_FORMATS)}")
        arguments = {"dataset": _FORMATS[path.suffix], "data_files": {"train": str(path)}}
    elif not path.exists() and "@" in name:
        arguments["dataset"], _, subset = name.partition("@")
    federated = FederatedDataset(subset=subset, partitioners={}, shuffle=False, **arguments)
    try:
        _ = federated.partitioners  # has the splits loaded; there is nothing to partition
    except datasets.exceptions.DatasetNotFoundError:
        raise DataError(
            f"{source}: neither a path here nor a data set of the hub that can be read without logging in"
        ) from None
    except ConnectionError:
        raise DataError(
            f"{source}: the hub cannot be reached from here; fetch the data set where it can, save it as"
            f" Parquet, and give the path: {PREFIX}FOLDER"
        ) from None
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{source} cannot be read by flwr-datasets: {first}") from None
    found = {}
    for split in ("train", "test", "validation"):
        try:
            found[split] = federated.load_split(split)
        except ValueError:  # the data set has no such split
            continue
    return found


def _kind(feature: Any) -> str:
    name = type(feature).__name__
    if name == "ClassLabel":
        return "class"
    if name == "Image":
        return "image"
    if name in _LISTS:
        return "array"
    dtype = str(getattr(feature, "dtype", ""))
    if dtype in ("string", "large_string"):
        return "text"
    return "number" if dtype.startswith(("int", "uint", "float", "bool", "double")) else ""


def _find_label(source: str, features: Mapping[str, Any], options: ReadOptions) -> str | None:
    if options.label_column in features:
        return options.label_column
    classes = [name for name, feature in features.items() if _kind(feature) == "class"]
    if len(classes) == 1:
        return classes[0]
    if not options.need_labels:
        return None
    raise DataError(
        f"{source}: expected a column {options.label_column!r} with the class, got {', '.join(features)};"
        " name it with data.label_column"
    )


def _find_samples(
    source: str, features: Mapping[str, Any], label: str | None, options: ReadOptions
) -> list[str]:
    left = {
        name: _kind(feature)
        for name, feature in features.items()
        if name not in (label, options.group_column) and _kind(feature) not in ("class", "")
    }
    if options.feature_names and set(options.feature_names) <= left.keys():
        return list(options.feature_names)
    for kind in ("image", "array", "text"):
        found = [name for name, other in left.items() if other == kind]
        if len(found) == 1:
            return found
        named = [name for name in _TEXT_NAMES if name in found]
        if kind == "text" and named:
            return named[:1]
        if found:
            raise DataError(f"{source}: expected one column of {kind}s, got {', '.join(found)}")
    if not left:
        raise DataError(f"{source}: expected images, arrays, text or numbers, got {', '.join(features)}")
    return list(left)


def _read_part(source: str, split: Any, label: str | None, samples: list[str], options: ReadOptions) -> Part:
    kind = _kind(split.features[samples[0]])
    if kind == "number":
        columns = [np.asarray(split[name], np.float32) for name in samples]
        x: Array = np.stack(columns, axis=1)
    elif kind == "text":
        x = as_texts([str(text) for text in split[samples[0]]])
    else:
        x = _stack(source, samples[0], split[samples[0]])
    groups = None
    if options.group_column:
        if options.group_column not in split.features:
            raise DataError(
                f"{source}: expected the column {options.group_column!r} of data.group_column, got"
                f" {', '.join(split.features)}"
            )
        groups = np.array([str(group) for group in split[options.group_column]])
    y = None if label is None else _read_labels(source, split[label])
    return Part(x, y, groups)


def _read_labels(source: str, labels: Sequence[Any]) -> Array:
    y = as_labels(np.array(list(labels)), origin=f"{source} (labels)")
    if y.dtype.kind == "i" and len(y) and y.min() < 0:
        raise DataError(
            f"{source}: {int((y < 0).sum())} samples have no class (-1); drop them, or that split"
        )
    return y


def _stack(source: str, column: str, rows: Iterable[Any]) -> Array:
    arrays = [np.asarray(row) for row in rows]
    shapes = {array.shape for array in arrays}
    if len(shapes) != 1:
        shown = ", ".join(str(shape) for shape in sorted(shapes, key=str)[:3])
        raise DataError(f"{source}, column {column!r}: expected samples of one shape, got {shown}")
    return np.stack(arrays)
