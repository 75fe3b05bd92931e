"""Many models of one architecture, computed as one."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from fedstill.common.models import build_model, measure_input
from fedstill.common.models.batched import MAX_MACS, compute_together, group_size, why_not_batched

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 255, (40, 8, 8), np.uint8)
SERIES = RNG.normal(size=(40, 30, 3)).astype(np.float32)
TABLE = RNG.normal(size=(40, 6)).astype(np.float32)
WORDS = RNG.integers(0, 50, (40, 12)).astype(np.int32)
KINDS = {
    "mlp-small": (TABLE, {"task": "tabular", "layout": "F", "scale": 1.0}),
    "cnn-tiny": (IMAGES, {"task": "image", "layout": "HW", "scale": 1 / 255}),
    "series-cnn": (SERIES, {"task": "series", "layout": "TC", "scale": 1.0}),
    "embedding-bag": (WORDS, {"task": "text", "layout": "T", "scale": 1.0, "num_ids": 50}),
}


def build(name, samples, seed, **about):
    torch.manual_seed(seed)
    return build_model(name, measure_input(samples, **about), num_classes=3)


def compute(models, x_KB):
    stacked = [torch.stack(values) for values in zip(*(model.parameters() for model in models), strict=True)]
    return compute_together(models[0], stacked, x_KB)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("num_samples", [1, 7, 16])
def test_each_model_answers_as_it_does_by_itself(name, num_samples):
    samples, about = KINDS[name]
    models = [build(name, samples, seed, **about) for seed in range(3)]
    assert why_not_batched(models[0], num_macs=0) == ""
    x_KB = torch.from_numpy(np.stack([samples[start : start + num_samples] for start in (0, 5, 20)]))
    together = compute(models, x_KB)
    for model, x_B, answers in zip(models, x_KB, together, strict=True):
        torch.testing.assert_close(answers, model(x_B), rtol=1e-5, atol=1e-6)


def test_gradients_are_those_of_each_model():
    models = [build("cnn-tiny", IMAGES, seed, **KINDS["cnn-tiny"][1]) for seed in range(2)]
    x_KB = torch.from_numpy(np.stack([IMAGES[:9], IMAGES[9:18]]))
    stacked = [
        torch.stack([*values]).detach().requires_grad_()
        for values in zip(*(m.parameters() for m in models), strict=True)
    ]
    compute_together(models[0], stacked, x_KB).square().sum().backward()
    for place, model in enumerate(models):
        model(x_KB[place]).square().sum().backward()
        for mine, value in zip(stacked, model.parameters(), strict=True):
            torch.testing.assert_close(mine.grad[place], value.grad, rtol=1e-4, atol=1e-5)


def tied():
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.ReLU(), layer)


def frozen():
    model = nn.Sequential(nn.Linear(6, 3))
    model[0].bias.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5)), "Dropout.* has no batched form"),
        (nn.Sequential(nn.Conv1d(3, 3, 3, groups=3), nn.ReLU()), "Conv1d.* has no batched form"),
        (nn.Sequential(nn.Conv1d(3, 3, 3, padding="same"), nn.ReLU()), "Conv1d.* has no batched form"),
        (nn.Sequential(nn.Flatten(2), nn.Linear(3, 3)), "Flatten.* has no batched form"),
        (build("series-gru", SERIES, 0, **KINDS["series-cnn"][1]), "no sequence of layers"),
        (tied(), "uses weights twice"),
        (frozen(), "not trained"),
    ],
)
def test_what_stands_in_the_way_is_said(model, reason):
    assert re.search(reason, why_not_batched(model, num_macs=0))


def test_a_model_that_keeps_a_core_busy_is_left_alone():
    model = nn.Sequential(nn.Linear(6, 3))
    assert why_not_batched(model, num_macs=MAX_MACS) == ""
    assert "as fast alone" in why_not_batched(model, num_macs=MAX_MACS + 1)


def test_groups_are_smaller_where_models_are_larger():
    sizes = [group_size(num_macs) for num_macs in (0, 10_000, 50_000, MAX_MACS)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1] > 1
