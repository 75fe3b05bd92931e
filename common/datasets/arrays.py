"""NumPy files: .npz in three layouts of keys, and .npy. Nothing here unpickles."""

from __future__ import annotations

import difflib
import tokenize
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from fedstill.common.datasets.reading import reading
from fedstill.common.datasets.records import Array, Content, Part, ReadOptions, read_wanted
from fedstill.common.datasets.values import as_labels
from fedstill.common.errors import DataError

LAYOUTS = (
    "x_train y_train [x_test y_test]; train_images train_labels [val_… test_…];"
    " x y [subject official_test scale]"
)
# NumPy and zipfile raise all of these on damaged or foreign headers.
_DAMAGE = (
    ValueError,
    RuntimeError,
    KeyError,
    SyntaxError,
    TypeError,
    MemoryError,
    OverflowError,
    tokenize.TokenError,
)
# Keys of the training part, whose pairs are joined, and of the test part.
_SPLIT_LAYOUTS = (
    ((("x_train", "y_train"),), ("x_test", "y_test")),
    ((("train_images", "train_labels"), ("val_images", "val_labels")), ("test_images", "test_labels")),
)


class _Archive:
    """An open .npz whose arrays are read when asked for."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path = path
        loaded = self._guard(np.load, file, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise DataError(f"{path} is no .npz archive; name a single array .npy")
        self._file = loaded
        self.keys = set(loaded.files)

    def read(self, key: str) -> Array:
        array: Array = self._guard(self._file.__getitem__, key)
        return array

    def labels(self, key: str) -> Array:
        return as_labels(self.read(key), origin=f"{self.path} ({key})")

    def _guard(self, load: Any, *args: Any, **options: Any) -> Any:
        return load_guarded(self.path, load, *args, **options)


def load_guarded(path: Path, load: Any, *args: Any, **options: Any) -> Any:
    """Calls one of NumPy's loaders and turns its many ways to fail into a `DataError`."""
    try:
        with reading(path):
            return load(*args, **options)
    except _DAMAGE as error:
        if "allow_pickle" in str(error) or "Object arrays" in str(error):
            if path.suffix == ".npz" and load is np.load:
                raise DataError(f"{path} is no .npz archive, or is truncated; fetch it again") from None
            raise DataError(
                f"{path} holds Python objects, which would have to be unpickled and are refused;"
                " save plain numeric arrays"
            ) from None
        raise DataError(f"{path} is truncated or damaged: {_one_line(error)}; fetch it again") from None


def _one_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def read_npy(path: Path) -> Content:
    """Reads a single array of samples, unlabelled."""
    with reading(path), path.open("rb") as file:
        array = load_guarded(path, np.load, file, allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path} is an archive; name it .npz")
    return Content(test=Part(array))


def read_npz(path: Path, options: ReadOptions) -> Content:
    """Reads an archive, whichever of the layouts its keys have.

    Args:
        path: The file.
        options: What is asked for; `group_column` names another key than `subject`.

    Returns:
        The content. Where labels are not needed, a file with nothing but samples
        (x, x_test or one array under any key) is one part.

    Raises:
        DataError: A damaged file, unknown keys, arrays of different lengths, or Python objects.
    """
    # NumPy leaves a file open that turns out to be no archive.
    with reading(path), path.open("rb") as file:
        return _read_archive(_Archive(path, file), options)


def _read_archive(archive: _Archive, options: ReadOptions) -> Content:
    keys = archive.keys
    if "x" in keys:
        return _read_mixed(archive, options)
    for train_keys, test_keys in _SPLIT_LAYOUTS:
        if keys & {train_keys[0][0], test_keys[0]}:
            _refuse_group_key(archive, options)
            present = [pair for pair in train_keys if pair[0] in keys]
            train, test = read_wanted(
                options,
                train=partial(_read_parts, archive, present, options) if present else None,
                test=partial(_read_parts, archive, [test_keys], options) if test_keys[0] in keys else None,
            )
            return Content(train, test, scale=_read_scale(archive))
    if len(keys) == 1 and not options.need_labels:
        return Content(test=Part(archive.read(keys.pop())))
    held = ", ".join(sorted(keys)) or "nothing"
    raise DataError(f"{archive.path} holds {held}; expected the keys of one of these: {LAYOUTS}")


def _read_parts(archive: _Archive, pairs: Sequence[tuple[str, str]], options: ReadOptions) -> Part:
    parts = [_read_pair(archive, x_key, y_key, options) for x_key, y_key in pairs]
    if len(parts) == 1:
        return parts[0]
    shapes = {part.x.shape[1:] for part in parts}
    if len(shapes) > 1:
        raise DataError(f"{archive.path}: samples differ in shape: {', '.join(map(str, sorted(shapes)))}")
    labels = [part.y for part in parts if part.y is not None]
    return Part(
        np.concatenate([part.x for part in parts]),
        np.concatenate(labels) if len(labels) == len(parts) else None,
    )


def _read_pair(archive: _Archive, x_key: str, y_key: str, options: ReadOptions) -> Part:
    x = archive.read(x_key)
    if not x.ndim:
        raise DataError(f"{archive.path}: expected {x_key} to hold samples, got a single value")
    if y_key not in archive.keys:
        if options.need_labels:
            raise DataError(f"{archive.path} holds {x_key} without {y_key}; expected {LAYOUTS}")
        return Part(x)
    y = archive.labels(y_key)
    if len(x) != len(y):
        raise DataError(f"{archive.path}: {x_key} holds {len(x)} samples, but {y_key} {len(y)} labels")
    return Part(x, y)


def _read_mixed(archive: _Archive, options: ReadOptions) -> Content:
    part = _read_pair(archive, "x", "y", options)
    scale = _read_scale(archive)
    group_key = options.group_column or "subject"
    if group_key not in archive.keys:
        _refuse_group_key(archive, options)
    if group_key in archive.keys:
        groups = _read_column(archive, group_key, len(part.x)).astype(str)
        part = Part(part.x, part.y, groups)
    if "official_test" not in archive.keys:
        return Content(part, scale=scale)
    mask = _read_column(archive, "official_test", len(part.x))
    if not np.isin(mask, (0, 1)).all():
        raise DataError(f"{archive.path}: expected official_test to be a mask of true and false")
    mask = mask.astype(np.bool_)
    if mask.all() or not mask.any():
        raise DataError(f"{archive.path}: official_test puts every sample into one part")
    return Content(part.take(~mask), part.take(mask), mask, scale=scale)


def _read_column(archive: _Archive, key: str, length: int) -> Array:
    column = archive.read(key)
    if column.ndim == 2 and column.shape[1] == 1:
        column = column[:, 0]
    if column.shape != (length,):
        raise DataError(f"{archive.path}: {key} has shape {column.shape}, expected ({length},) like x")
    return column


def _read_scale(archive: _Archive) -> float:
    if "scale" not in archive.keys:
        return 1.0
    scale = archive.read("scale")
    if scale.size != 1 or scale.dtype.kind not in "iuf" or not 0 < float(scale.reshape(())) < np.inf:
        raise DataError(f"{archive.path}: expected scale to be one positive number, got {scale!s:.60}")
    return float(scale.reshape(()))


def _refuse_group_key(archive: _Archive, options: ReadOptions) -> None:
    if options.group_column and options.need_labels:
        near = difflib.get_close_matches(options.group_column, sorted(archive.keys), n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(
            f"{archive.path} has no groups {options.group_column!r} beside x and y"
            f" (it holds {', '.join(sorted(archive.keys))}){hint}"
        )
