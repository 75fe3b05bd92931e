"""Factors multiply to the layer that they stand for, as far as its energy says."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedstill.common.compressors.lowrank import choose_rank, factorise_layers
from fedstill.common.compressors.structure import Pair, reshape_model, shapes_of
from fedstill.common.models import build_model, measure_input
from fedstill.common.training import count_parameters, deterministic, predict_logits


def test_the_rank_is_the_least_that_keeps_the_energy_by_hand():
    values = torch.tensor([3.0, 2.0, 1.0, 0.0])  # squares 9, 4, 1: of 14
    assert choose_rank(values, energy=9 / 14, most=0) == 1
    assert choose_rank(values, energy=0.65, most=0) == 2
    assert choose_rank(values, energy=0.95, most=0) == 3
    assert choose_rank(values, energy=1.0, most=0) == 3
    assert choose_rank(values, energy=0.95, most=2) == 2


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(0.01, 100), min_size=1, max_size=12),
    st.floats(0.01, 1.0, exclude_min=True),
    st.integers(0, 5),
)
def test_the_rank_keeps_what_was_asked_and_no_more(values, energy, most):
    values = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    rank = choose_rank(values, energy=energy, most=most)
    squares = values.square()
    assert 1 <= rank <= (most or len(values))
    if not most:
        assert squares[:rank].sum() >= energy * squares.sum() * (1 - 1e-9)
        assert rank == 1 or squares[: rank - 1].sum() < energy * squares.sum()


def product(rank, rows, columns):
    rng = torch.Generator().manual_seed(0)
    return torch.randn(rows, rank, generator=rng) @ torch.randn(rank, columns, generator=rng)


def test_a_layer_of_low_rank_is_replaced_exactly():
    model = nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 3))
    with torch.no_grad():
        model[0].weight.copy_(product(2, 20, 30))
    x = torch.randn(7, 30, generator=torch.Generator().manual_seed(1))
    before = model(x)
    assert factorise_layers(model, energy=1 - 1e-9, most=0)
    assert isinstance(model[0], Pair)
    assert model[0][0].weight.shape == (2, 30)
    torch.testing.assert_close(model(x), before, atol=1e-4, rtol=1e-4)


def test_a_convolution_keeps_its_reach_stride_and_padding():
    model = nn.Sequential(nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(12 * 16, 3))
    with torch.no_grad():
        model[0].weight.copy_(product(3, 12, 72).reshape(12, 8, 3, 3))
    x = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    before = model(x)
    assert factorise_layers(model, energy=1 - 1e-9, most=0)
    assert [layer.weight.shape for layer in model[0]] == [(3, 8, 3, 3), (12, 3, 1, 1)]
    torch.testing.assert_close(model(x), before, atol=1e-4, rtol=1e-4)


def test_layers_that_would_grow_and_the_last_one_stay():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(8))
    assert not factorise_layers(model, energy=0.99, most=0)
    assert not any(isinstance(module, Pair) for module in model.modules())


@pytest.mark.parametrize("name", ["cnn-large", "resnet-small", "cnn-separable", "mlp-large"])
def test_a_factorised_model_reloads_from_its_shapes(name):
    x = np.random.default_rng(0).integers(0, 200, size=(4, 16, 16, 3)).astype(np.uint8)
    spec = measure_input(x, task="image", layout="HWC", scale=1.0)
    with deterministic(0, num_threads=1):
        model, fresh = (build_model(name, spec, num_classes=5) for _ in range(2))
    before = count_parameters(model)
    assert factorise_layers(model, energy=0.5, most=8)
    assert count_parameters(model) < before
    assert not factorise_layers(model, energy=0.5, most=8), "pairs are not torn further"
    reshape_model(fresh, shapes_of(model), origin="here")
    fresh.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(predict_logits(fresh, x), predict_logits(model, x))
