"""Dtypes and axes of samples."""

import numpy as np
import pytest

from fedstill.common.datasets.values import cast_samples, narrow_samples, resolve_layout
from fedstill.common.errors import DataError


@pytest.mark.parametrize(
    ("shape", "dtype", "task", "expected"),
    [
        ((5,), "float32", "auto", ("tabular", "F", (5,))),
        ((28, 28), "float32", "auto", ("image", "HW", (28, 28))),
        ((32, 24), "uint8", "auto", ("image", "HW", (32, 24))),
        ((9, 128), "int16", "auto", ("series", "CT", (9, 128))),
        ((128, 9), "float32", "auto", ("series", "TC", (128, 9))),
        ((32, 32, 3), "uint8", "auto", ("image", "HWC", (32, 32, 3))),
        ((3, 32, 32), "uint8", "auto", ("image", "CHW", (3, 32, 32))),
        ((28, 28, 1), "uint8", "auto", ("image", "HWC", (28, 28, 1))),
        ((28, 28), "uint8", "series", ("series", "CT", (28, 28))),
        ((9, 128), "int16", "image", ("image", "HW", (9, 128))),
        ((128,), "float32", "series", ("series", "CT", (1, 128))),
        ((64,), "uint8", "image", ("image", "HW", (8, 8))),
        ((8, 8), "uint8", "tabular", ("tabular", "F", (64,))),
    ],
)
def test_axes_are_inferred_or_asked_for(shape, dtype, task, expected):
    assert resolve_layout(shape, np.dtype(dtype), task) == expected


@pytest.mark.parametrize(
    ("shape", "task"),
    [((65,), "image"), ((32, 32, 3), "series"), ((32, 32, 32), "auto"), ((2, 3, 4, 5), "auto")],
)
def test_axes_that_fit_no_task_are_refused(shape, task):
    with pytest.raises(DataError, match=r"shape \("):
        resolve_layout(shape, np.dtype("float32"), task)


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([[[0, 255]]], "uint8", "uint8"),
        ([[[0, 255]]], "int64", "uint8"),
        ([[[-1, 255]]], "int64", "int16"),
        ([[[0, 70000]]], "int64", "float32"),
        ([[[0, 1]]], "float64", "float32"),
        ([[[0, 1]]], "float16", "float32"),
        ([[[0, 1]]], "bool", "uint8"),
        ([[[-3, 1]]], "int8", "int16"),
        ([[0, 255]], "int64", "float32"),
        ([[0, 255]], "int16", "int16"),
    ],
)
def test_samples_take_the_smallest_fitting_dtype(values, dtype, expected):
    (narrowed,) = narrow_samples([np.array(values, dtype)], task="auto", origin="d")
    assert narrowed.dtype == expected
    assert np.array_equal(narrowed, np.array(values))


def test_both_parts_take_one_dtype():
    parts = [np.array([[[1]]]), np.array([[[-300]]])]
    assert {str(part.dtype) for part in narrow_samples(parts, task="auto", origin="d")} == {"int16"}


@pytest.mark.parametrize("values", [[0.5], [256.0], [-1.0]])
def test_values_that_a_models_dtype_cannot_hold_are_refused(values):
    with pytest.raises(DataError, match="uint8"):
        cast_samples(np.array([values]), np.dtype("uint8"), origin="d")


def test_whole_floats_are_cast_to_integers():
    assert cast_samples(np.array([[3.0]]), np.dtype("uint8"), origin="d").tolist() == [[3]]
