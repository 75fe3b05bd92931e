"""Checks on samples and labels, and the few dtypes that they are kept in."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedstill.common.datasets.records import Array
from fedstill.common.errors import DataError

MAX_CHANNELS = 16
# Beyond it a float no longer tells neighbouring whole numbers apart.
_LARGEST_WHOLE = 2**53


def as_texts(texts: Sequence[str]) -> Array:
    """Puts texts into an object array (S,), which takes as much memory as they do."""
    x_S = np.empty(len(texts), dtype=object)
    x_S[:] = texts
    return x_S


def check_samples(x_S: Array, *, origin: str) -> None:
    """Refuses an array that holds no finite numeric samples.

    Args:
        x_S: What a file holds as samples.
        origin: File and key, for the message.

    Raises:
        DataError: No samples, no numbers, or a value that is NaN or infinite.
    """
    if x_S.dtype.kind not in "buif":
        raise DataError(f"{origin}: expected numeric samples, got dtype {x_S.dtype}")
    if x_S.ndim < 2:
        raise DataError(f"{origin}: expected samples of at least one axis, got an array of shape {x_S.shape}")
    if not x_S.size:
        raise DataError(f"{origin} holds no samples: its shape is {x_S.shape}")
    if x_S.dtype.kind == "f" and not _is_finite(x_S):
        index = np.argwhere(~np.isfinite(x_S))[0]
        value = x_S[tuple(index)]
        raise DataError(
            f"{origin}: sample {index[0]} holds {value} at {[int(i) for i in index[1:]]};"
            " every value has to be finite, so drop or fill such samples"
        )


def _is_finite(x_S: Array) -> bool:
    # Two reductions need no array of booleans as large as the samples.
    with np.errstate(invalid="ignore"):
        return math.isfinite(x_S.min()) and math.isfinite(x_S.max())


def narrow_samples(parts: Sequence[Array], *, task: str, origin: str) -> list[Array]:
    """Brings samples to one of uint8, int16 and float32, the same for all parts.

    Args:
        parts: Training and test samples.
        task: Kind of samples asked for.
        origin: File, for the message.

    Returns:
        The samples. uint8, int16 and float32 stay as they are, wider integers shrink
        to the first of uint8 and int16 that holds them. Wide integers of tabular
        samples become float32 instead, since a later sample may lie outside the
        range seen here; whole numbers of a CSV read as images become uint8.

    Raises:
        DataError: A value that float32 cannot hold.
    """
    common = np.result_type(*parts)
    if common in (np.uint8, np.int16, np.float32) and not (task == "image" and common == np.float32):
        return [part.astype(common, copy=False) for part in parts]
    flat = parts[0].ndim == 2
    if common == np.bool_:
        return [part.astype(np.uint8) for part in parts]
    if common == np.int8:
        return [part.astype(np.int16) for part in parts]
    shrinks = (common.kind in "iu" and (not flat or task in ("image", "series"))) or (
        flat and task == "image" and all(np.array_equal(part, np.rint(part)) for part in parts)
    )
    if shrinks:
        low, high = min(part.min() for part in parts), max(part.max() for part in parts)
        for dtype in (np.uint8, np.int16):
            if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
                return [part.astype(dtype) for part in parts]
    return [_to_float32(part, origin=origin) for part in parts]


def _to_float32(x_S: Array, *, origin: str) -> Array:
    with np.errstate(over="ignore"):
        narrowed = x_S.astype(np.float32, copy=False)
    if not _is_finite(narrowed):
        raise DataError(f"{origin}: values up to {np.abs(x_S).max():g} do not fit float32; rescale them")
    return narrowed


def cast_samples(x_S: Array, dtype: np.dtype, *, origin: str) -> Array:
    """Casts samples to the dtype that a model takes, if no value changes by more than rounding.

    Raises:
        DataError: A fraction or an out-of-range value where whole numbers are expected.
    """
    if x_S.dtype == dtype:
        return x_S
    if dtype.kind == "f":
        return _to_float32(x_S, origin=origin).astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    if x_S.dtype.kind == "f" and not np.array_equal(x_S, np.rint(x_S)):
        raise DataError(
            f"{origin}: expected whole numbers ({dtype}), got {x_S.dtype} with fractions;"
            " give the raw values that the model was trained on"
        )
    if x_S.min() < limits.min or x_S.max() > limits.max:
        raise DataError(f"{origin}: expected {dtype}, got values from {x_S.min():g} to {x_S.max():g}")
    return x_S.astype(dtype)


def resolve_layout(
    shape: tuple[int, ...],
    dtype: np.dtype,
    task: str,
) -> tuple[str, str, tuple[int, ...]]:
    """Infers what the axes of one sample are, or applies the task asked for.

    One axis is tabular. Two are an image if uint8 or square, else a series whose
    shorter axis is the channel. Three are an image whose channels are the smaller of
    the first and the last axis. An image may come as a flat square, a series as one
    channel, and any sample can be flattened to be tabular.

    Args:
        shape: Shape of one sample.
        dtype: Its dtype.
        task: "auto" or the task asked for.

    Returns:
        Task, layout and the shape that samples are to be brought to.

    Raises:
        DataError: No such reading of these axes.
    """
    if task == "auto":
        is_image = len(shape) != 1 and (len(shape) == 3 or dtype == np.uint8 or shape[0] == shape[1])
        task = "tabular" if len(shape) == 1 else "image" if is_image else "series"
        if len(shape) > 3:
            raise DataError(f"expected samples of one to three axes, got shape {shape}")
    size = math.prod(shape)
    if task == "tabular":
        return task, "F", (size,)
    if task == "series" and len(shape) == 1:
        return task, "CT", (1, size)
    if task == "series" and len(shape) == 2:
        return task, "CT" if shape[0] <= shape[1] else "TC", shape
    side = math.isqrt(size)
    if task == "image" and len(shape) == 1 and side * side == size:
        return task, "HW", (side, side)
    if task == "image" and len(shape) == 2:
        return task, "HW", shape
    if task == "image" and len(shape) == 3 and min(shape[0], shape[2]) <= MAX_CHANNELS:
        return task, "HWC" if shape[2] <= shape[0] else "CHW", shape
    raise DataError(
        f"samples of shape {shape} cannot be read as {task}: an image is (H, W), (H, W, C) or (C, H, W) with"
        f" at most {MAX_CHANNELS} channels or a flat square, a series (C, T), (T, C) or flat"
    )


def as_labels(raw: Array, *, origin: str) -> Array:
    """Brings labels to a flat array of int64 or of text.

    Args:
        raw: What a file holds: integers, whole floats, booleans or text, of shape (S,) or (S, 1).
        origin: File and key, for the message.

    Returns:
        int64 if every label is a whole number, written as one or not; else text.

    Raises:
        DataError: Another shape or dtype.
    """
    if raw.ndim == 2 and raw.shape[1] == 1:
        raw = raw[:, 0]
    if raw.ndim != 1:
        raise DataError(f"{origin}: expected one label per sample, got an array of shape {raw.shape}")
    if raw.dtype.kind in "bui":
        return raw.astype(np.int64)
    if raw.dtype.kind == "f":
        if not (np.array_equal(raw, np.rint(raw)) and np.all(np.abs(raw) < _LARGEST_WHOLE)):
            raise DataError(f"{origin}: expected class labels, got floats that are no whole numbers")
        return raw.astype(np.int64)
    if raw.dtype.kind == "S":
        raw = np.char.decode(raw, "utf-8", "replace")
    if raw.dtype.kind != "U":
        raise DataError(f"{origin}: expected integer or text labels, got dtype {raw.dtype}")
    texts, inverse = np.unique(np.char.strip(raw), return_inverse=True)
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        return texts[inverse]
    if all(number.is_integer() and abs(number) < _LARGEST_WHOLE for number in numbers):
        return np.array(numbers, dtype=np.int64)[inverse]
    return texts[inverse]


def encode_labels(
    parts: Sequence[Array], *, class_names: tuple[str, ...], origin: str
) -> tuple[list[NDArray[np.int64]], tuple[str, ...]]:
    """Maps labels to 0..C−1.

    Args:
        parts: Labels of each part, as `as_labels` gives them.
        class_names: Names of the classes by index; empty if unknown.
        origin: File, for the message.

    Returns:
        Labels of each part, and the names: those given, else text labels in sorted
        order, else the numbers.

    Raises:
        DataError: Numbers that are not 0..C−1, or a text that names no class.
    """
    if any(part.dtype.kind == "U" for part in parts):
        texts = [part.astype(str) for part in parts]
        found = sorted({str(text) for part in texts for text in np.unique(part)})
        names = class_names or tuple(found)
        unknown = [text for text in found if text not in names]
        if unknown:
            raise DataError(f"{origin}: labels {_list(unknown)} are none of the classes {_list(names)}")
        index = {name: number for number, name in enumerate(names)}
        return [_map_texts(part, index) for part in texts], names
    values = np.unique(np.concatenate(parts))
    highest = len(class_names) or len(values)
    if values[0] < 0 or values[-1] >= highest:
        expected = f"0..{highest - 1}" if class_names else "0..C−1 without gaps"
        raise DataError(
            f"{origin}: expected integer labels {expected}, got {_list(values.tolist())};"
            " renumber them or give names instead"
        )
    return [part.astype(np.int64) for part in parts], class_names or tuple(str(v) for v in values)


def _map_texts(texts_S: Array, index: dict[str, int]) -> NDArray[np.int64]:
    names, inverse = np.unique(texts_S, return_inverse=True)
    return np.array([index[str(name)] for name in names], dtype=np.int64)[inverse]


def _list(items: Sequence[object], *, limit: int = 12) -> str:
    shown = ", ".join(str(item) for item in items[:limit])
    return shown + (f", … ({len(items)} in all)" if len(items) > limit else "")
