"""Normalisation: measured per channel, applied as the first layer."""

import numpy as np
import pytest
import torch

from fedstill.common.errors import DataError
from fedstill.common.models import measure_input
from fedstill.common.models.inputs import Preprocess


def draw(shape, dtype="uint8"):
    return np.random.default_rng(1).integers(0, 255, size=shape).astype(dtype)


@pytest.mark.parametrize(
    ("task", "layout", "shape", "axis"),
    [
        ("image", "HW", (4, 5), None),
        ("image", "HWC", (4, 5, 3), 2),
        ("image", "CHW", (3, 4, 5), 0),
        ("series", "TC", (6, 2), 1),
        ("series", "CT", (2, 6), 0),
        ("tabular", "F", (7,), 0),
    ],
)
def test_preprocessing_equals_the_formula(task, layout, shape, axis):
    x = draw((20, *shape))
    spec = measure_input(x, task=task, layout=layout, scale=0.5)
    scaled = x.astype(np.float64) * 0.5
    if axis is None:
        expected = ((scaled - scaled.mean()) / scaled.std())[:, None]
    else:
        axes = tuple(index for index in range(x.ndim) if index != axis + 1)
        mean, std = scaled.mean(axes, keepdims=True), scaled.std(axes, keepdims=True)
        expected = np.moveaxis((scaled - mean) / std, axis + 1, 1)
    np.testing.assert_allclose(Preprocess(spec)(torch.from_numpy(x)).numpy(), expected, atol=1e-5)


def test_preprocessing_by_hand():
    spec = measure_input(np.array([[1, 10], [3, 30]], np.int16), task="tabular", layout="F", scale=2.0)
    assert (spec.mean, spec.std) == ((4.0, 40.0), (2.0, 20.0))
    out = Preprocess(spec)(torch.tensor([[5, 20]], dtype=torch.int16))
    torch.testing.assert_close(out, torch.tensor([[3.0, 0.0]]))


def test_shape_behind_preprocessing_is_the_announced_one():
    x = draw((2, 4, 5, 3))
    spec = measure_input(x, task="image", layout="HWC", scale=1.0)
    assert Preprocess(spec)(torch.from_numpy(x)).shape[1:] == spec.channels_first_shape == (3, 4, 5)


@pytest.mark.parametrize("value", [0.0, 0.1, 12345.678, -1e30])
def test_a_constant_channel_gets_std_one(value):
    x = np.stack([np.full(50, value), np.linspace(0, 1, 50)], axis=1).astype(np.float32)
    assert measure_input(x, task="tabular", layout="F", scale=1.0).std[0] == 1.0


@pytest.mark.parametrize("size", [1e-12, 1e-7, 1.0, 1e12])
def test_a_varying_channel_is_normalised_whatever_its_magnitude_and_its_neighbours(size):
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(0, size, 400), rng.normal(0, 1e9, 400)], axis=1).astype(np.float32)
    spec = measure_input(x, task="tabular", layout="F", scale=1.0)
    out = Preprocess(spec)(torch.from_numpy(x))
    torch.testing.assert_close(out.std(0, correction=0), torch.ones(2), rtol=1e-4, atol=0)


def test_samples_of_one_value_pass_through_finite():
    spec = measure_input(np.zeros((4, 3, 3), np.uint8), task="image", layout="HW", scale=1.0)
    assert Preprocess(spec)(torch.full((1, 3, 3), 7, dtype=torch.uint8)).unique().tolist() == [7.0]


def test_a_layout_with_other_axes_is_refused():
    with pytest.raises(DataError, match=r"expected samples with axes HWC, got shape \(4, 5\)"):
        measure_input(draw((2, 4, 5)), task="image", layout="HWC", scale=1.0)


def test_the_specification_names_shape_and_type():
    spec = measure_input(draw((2, 4, 5), "int16"), task="image", layout="HW", scale=3.0)
    assert (spec.sample_shape, spec.dtype, spec.layout, spec.scale) == ((4, 5), "int16", "HW", 3.0)
