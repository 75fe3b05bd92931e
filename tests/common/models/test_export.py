"""Every model of the registry as the device runs it: exported, and in 8 bits."""

import numpy as np
import pytest
import torch

from fedstill.common.compressors.static_int8 import fold_constants, quantise_static
from fedstill.common.inference import open_session
from fedstill.common.models import MODELS, build_model, measure_input
from fedstill.common.onnx_export import strip_metadata, swap_weights, trace_model
from fedstill.common.training import deterministic, predict_logits

# Layout, shape, type and number of ids by task.
SAMPLES = {
    "image": ("HWC", (16, 12, 3), "uint8", 0),
    "tabular": ("F", (7,), "float32", 0),
    "series": ("CT", (4, 30), "int16", 0),
    "text": ("T", (140,), "int16", 500),
    "sequence": ("T", (60,), "uint8", 6),
}
# Beside them the graph itself outweighs what the weights lose.
TOO_SMALL_TO_SHRINK = {"cnn-tiny", "mlp-small"}


@pytest.fixture(scope="module", params=sorted(MODELS))
def exported(request):
    task = MODELS[request.param].tasks[0]
    layout, shape, dtype, num_ids = SAMPLES[task]
    x = np.random.default_rng(0).integers(0, num_ids or 200, size=(40, *shape)).astype(dtype)
    if num_ids:
        x[::2, shape[0] // 2 :] = 0
    spec = measure_input(x, task=task, layout=layout, scale=1.0, num_ids=num_ids)
    with deterministic(0, num_threads=1):
        model, other = (build_model(request.param, spec, num_classes=5).eval() for _ in range(2))
        for parameter in (*model.parameters(), *other.parameters()):
            parameter.data += 0.02 * torch.randn_like(parameter)
    return request.param, model, other, spec, x, trace_model(model, spec)


def run(proto, x):
    return open_session(proto.SerializeToString()).run(None, {"samples": x})[0]


def test_the_graph_gives_torchs_logits_for_any_batch(exported):
    _, model, _, _, x, traced = exported
    expected = predict_logits(model, x)
    for num_samples in (1, 5, 40):
        np.testing.assert_allclose(run(traced, x[:num_samples]), expected[:num_samples], atol=1e-4)


def test_it_takes_the_weights_of_another_model(exported):
    _, _, other, _, x, traced = exported
    swapped = fold_constants(swap_weights(traced, other))
    np.testing.assert_allclose(run(swapped, x), predict_logits(other, x), atol=1e-4)


def test_eight_bits_stay_near_the_floats_and_are_smaller(exported):
    name, model, _, _, x, traced = exported
    folded = fold_constants(traced)
    quantised = quantise_static(folded, x)
    expected = predict_logits(model, x)
    worst = np.abs(run(quantised, x) - expected).max()
    assert worst < 0.1 * (expected.max() - expected.min())
    for proto in (folded, quantised):
        strip_metadata(proto)
    if name not in TOO_SMALL_TO_SHRINK:
        assert quantised.ByteSize() < folded.ByteSize()
