"""Channels go with all that depends on them; what cannot be pruned is named."""

import numpy as np
import pytest
import torch
from torch import nn

from fedstill.common.compressors.pruning import count_channels, prune_channels
from fedstill.common.compressors.structure import reshape_model, shapes_of
from fedstill.common.errors import CheckpointError, FedStillError
from fedstill.common.models import InputSpec, build_model, measure_input
from fedstill.common.training import deterministic, predict_logits

SPEC = InputSpec("tabular", (4,), "float32", "F", 1.0, (0.0,) * 4, (1.0,) * 4)


def build(name, task="image", layout="HWC", shape=(16, 16, 3), dtype="uint8", num_ids=0):
    x = np.random.default_rng(0).integers(0, num_ids or 200, size=(8, *shape)).astype(dtype)
    spec = measure_input(x, task=task, layout=layout, scale=1.0, num_ids=num_ids)
    with deterministic(0, num_threads=1):
        return build_model(name, spec, num_classes=5), spec, x


def test_the_weakest_channel_goes_by_hand():
    # Three hidden units; the second has the least weight, counting what leaves it too.
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[2.0, 0, 0, 0], [0, 0.1, 0, 0], [0, 0, 1.0, 0]]))
        model[2].weight.copy_(torch.tensor([[1.0, 0.1, 2.0], [3.0, 0.1, 1.0]]))
    assert prune_channels(model, SPEC, original=count_channels(model), ratio=1 / 3, importance="magnitude")
    assert model[0].weight.tolist() == [[2.0, 0, 0, 0], [0, 0, 1.0, 0]]
    assert model[2].weight.tolist() == [[1.0, 2.0], [3.0, 1.0]]


def test_the_ratio_is_of_what_was_built_and_is_not_exceeded():
    model, spec, _ = build("cnn-small")
    original = count_channels(model)
    assert prune_channels(model, spec, original=original, ratio=0.25, importance="magnitude")
    assert list(count_channels(model).values()) == [9, 18, 36, 5]
    assert prune_channels(model, spec, original=original, ratio=0.5, importance="magnitude")
    assert list(count_channels(model).values()) == [6, 12, 24, 5]
    assert not prune_channels(model, spec, original=original, ratio=0.4, importance="magnitude")


def test_one_channel_stays_in_each_layer():
    model, spec, x = build("cnn-tiny")
    prune_channels(model, spec, original=count_channels(model), ratio=0.999, importance="magnitude")
    assert list(count_channels(model).values()) == [1, 1, 5]
    assert np.isfinite(predict_logits(model, x)).all()


@pytest.mark.parametrize("name", ["cnn-large", "resnet-small", "cnn-separable"])
def test_a_pruned_model_reloads_from_its_shapes(name):
    model, spec, x = build(name)
    prune_channels(model, spec, original=count_channels(model), ratio=0.5, importance="magnitude")
    fresh = build(name)[0]
    reshape_model(fresh, shapes_of(model), origin="here")
    fresh.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(predict_logits(fresh, x), predict_logits(model, x))


def test_reloaded_shapes_can_be_pruned_further():
    model, spec, _ = build("resnet-small")
    original = count_channels(model)
    prune_channels(model, spec, original=original, ratio=0.25, importance="magnitude")
    fresh = build("resnet-small")[0]
    reshape_model(fresh, shapes_of(model), origin="here")
    assert prune_channels(fresh, spec, original=original, ratio=0.5, importance="magnitude")
    assert fresh[1][0].weight.shape[0] == 12


def test_the_scale_of_batch_normalisation_says_what_goes():
    model, spec, _ = build("cnn-large")
    norm = model[1][1]
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(1, 2, len(norm.weight)).flip(0))
        model[1][-4].weight[:] = 1.0
    strongest = norm.weight[:16].tolist()
    with pytest.raises(FedStillError, match=r"cannot prune layer 1\.\d+: .*bn_scale"):
        # The hidden linear layer has none.
        prune_channels(model, spec, original=count_channels(model), ratio=0.5, importance="bn_scale")
    assert model[1][1].weight.tolist() == strongest


def test_heads_of_attention_are_not_torn():
    model, spec, _ = build("transformer-small", "text", "T", (140,), "int16", 500)
    with pytest.raises(FedStillError, match=r"after layer 1\.layers\.0\.\w+ it does not run with fewer"):
        prune_channels(model, spec, original=count_channels(model), ratio=0.5, importance="magnitude")


def test_a_model_without_layers_to_prune_is_refused():
    model, spec, _ = build("embedding-bag", "text", "T", (140,), "int16", 500)
    with pytest.raises(FedStillError, match="has no layer whose channels can be pruned"):
        prune_channels(model, spec, original=count_channels(model), ratio=0.5, importance="magnitude")


def test_a_model_that_cannot_be_traced_is_one_line():
    class Untraceable(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x):
            raise RuntimeError("no\nway")

    model = Untraceable()
    with pytest.raises(FedStillError, match=r"it cannot be traced \(no\)") as raised:
        prune_channels(model, SPEC, original=count_channels(model), ratio=0.5, importance="magnitude")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"1.0.weight": (13, 3, 3, 3)}, r"1\.0\.weight should be \(12, 3, 3, 3\) or smaller"),
        ({"1.0.weight": (12, 3, 3)}, r"1\.0\.weight should be"),
        ({"1.0.weight": (0, 3, 3, 3)}, r"1\.0\.weight should be"),
    ],
)
def test_shapes_of_another_design_are_refused(change, message):
    model, _, _ = build("cnn-small")
    with pytest.raises(CheckpointError, match=message):
        reshape_model(model, shapes_of(model) | change, origin="there")


def test_a_rank_beyond_the_layer_is_refused():
    model, _, _ = build("cnn-small")
    shapes = shapes_of(model)
    del shapes["1.3.weight"]
    with pytest.raises(CheckpointError, match=r"1\.3 has a rank of"):
        reshape_model(model, shapes | {"1.3.0.weight": (10**9, 12, 3, 3)}, origin="there")
