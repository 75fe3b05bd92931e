"""The least weights become zero, all over or among neighbours, and stay zero."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstill.common.compressors import make_plan
from fedstill.common.compressors.sparsity import (
    apply_masks,
    choose_masks,
    keep_largest,
    keep_of_neighbours,
    lamp_scores,
    present_masks,
)
from fedstill.common.compressors.structure import weighted_layers
from fedstill.common.models import build_model


def test_lamp_scores_by_hand():
    # Squares 1, 4, 9: 1 / 14, 4 / 13, 9 / 9.
    scores = lamp_scores(torch.tensor([[2.0, -1.0], [3.0, 0.0]]))
    torch.testing.assert_close(scores, torch.tensor([[4 / 13, 1 / 14], [1.0, 0.0]], dtype=torch.float64))


def test_a_layer_of_small_weights_keeps_its_largest():
    masks = keep_largest(
        {"a": torch.tensor([9.0, 8.0, 7.0, 6.0]), "b": torch.tensor([0.02, 0.01])}, sparsity=0.5
    )
    assert masks["b"].tolist() == [True, False]
    assert masks["a"].sum() == 2


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 1), st.integers(1, 40), st.integers(1, 40))
def test_the_sparsity_is_met_and_no_layer_is_empty(sparsity, first, second):
    rng = torch.Generator().manual_seed(first * 41 + second)
    weights = {"a": torch.randn(first, generator=rng), "b": torch.randn(second, generator=rng)}
    masks = keep_largest(weights, sparsity=sparsity)
    gone = sum(int((~mask).sum()) for mask in masks.values())
    assert gone == min(round(sparsity * (first + second)), first + second - 2)
    assert all(mask.any() for mask in masks.values())


def test_two_of_four_neighbours_stay_by_hand():
    weight = torch.tensor([[1.0, -4.0, 2.0, 3.0, 5.0, 0.1, 0.2]])
    assert keep_of_neighbours(weight, kept=2, size=4).tolist() == [
        [False, True, False, True, True, False, True]
    ]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 23), st.integers(2, 8), st.data())
def test_no_group_keeps_more_than_n(rows, columns, size, data):
    kept = data.draw(st.integers(1, size - 1))
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows * columns))
    mask = keep_of_neighbours(weight, kept=kept, size=size)
    for start in range(0, columns, size):
        part = mask[:, start : start + size]
        assert (part.sum(1) == min(kept, part.shape[1])).all()


def test_layers_that_are_built_as_zeros_are_not_masked(digits_cnn):
    model = build_model("resnet-small", digits_cnn.spec, num_classes=10, width=0.5)
    assert present_masks(model) == {}
    apply_masks(model, choose_masks(model, sparsity=0.9, pattern="unstructured", share=1.0))
    assert present_masks(model)


def zeros_of(model):
    weights = [layer.weight for layer in weighted_layers(model).values()]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


def test_training_ends_with_the_zeros_that_were_asked_for(compress):
    result = compress(make_plan(steps="sparsify", sparsity=0.75), num_steps=40)
    assert abs(zeros_of(result.model) - 0.75) < 0.001
    (cost,) = result.costs
    assert (cost["step"], cost["bytes_before"]) == ("sparsify", cost["bytes_after"])


def test_a_pattern_holds_in_every_layer_after_training(compress):
    result = compress(make_plan(steps="sparsify", pattern="1:4"), num_steps=40)
    for layer in weighted_layers(result.model).values():
        rows = layer.weight.flatten(1)
        groups = rows[:, : rows.shape[1] // 4 * 4].reshape(len(rows), -1, 4)
        assert ((groups != 0).sum(2) <= 1).all()
