"""Traced graphs compute what torch computes, carry other weights on demand, and do not name their host."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from fedstill.common.errors import FedStillError
from fedstill.common.inference import open_session
from fedstill.common.models import build_model, measure_input
from fedstill.common.onnx_export import recall_trace, strip_metadata, swap_weights, trace_model
from fedstill.common.training import deterministic, predict_logits

REPOSITORY = Path(__file__).resolve().parents[2]


def build(name, spec, seed=0):
    with deterministic(seed, num_threads=1):
        return build_model(name, spec, num_classes=10).eval()


def run(proto, x):
    return open_session(proto.SerializeToString()).run(None, {"samples": x})[0]


@pytest.fixture(scope="module")
def traced(digits_cnn):
    return trace_model(digits_cnn.model, digits_cnn.spec)


@pytest.mark.parametrize("num_samples", [1, 2, 7, 300])
def test_traced_graph_gives_torchs_logits_for_any_batch(traced, digits_cnn, num_samples):
    x = digits_cnn.dataset.x_test[:num_samples]
    np.testing.assert_allclose(run(traced, x), predict_logits(digits_cnn.model, x), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "task", "layout", "shape", "dtype"),
    [
        ("cnn-medium", "image", "HWC", (8, 9, 3), "uint8"),
        ("mlp-small", "tabular", "F", (6,), "float32"),
        ("mlp-small", "series", "CT", (2, 12), "int16"),
    ],
)
def test_every_kind_of_samples_is_exported(name, task, layout, shape, dtype):
    x = np.random.default_rng(0).integers(0, 100, (9, *shape)).astype(dtype)
    spec = measure_input(x, task=task, layout=layout, scale=1.0)
    model = build(name, spec)
    np.testing.assert_allclose(run(trace_model(model, spec), x), predict_logits(model, x), atol=1e-4)


def test_swapped_weights_equal_exporting_anew(traced, digits_cnn):
    other = build("cnn-tiny", digits_cnn.spec, seed=9)
    swapped, anew = swap_weights(traced, other), trace_model(other, digits_cnn.spec)
    assert swapped.SerializeToString(deterministic=True) == anew.SerializeToString(deterministic=True)


def test_swapping_leaves_the_traced_graph_as_it_was(traced, digits_cnn):
    before = traced.SerializeToString(deterministic=True)
    swap_weights(traced, build("cnn-tiny", digits_cnn.spec, seed=9))
    assert traced.SerializeToString(deterministic=True) == before


def test_swapped_normalisation_goes_with_the_weights(traced, digits_cnn):
    dataset = digits_cnn.dataset
    spec = measure_input(dataset.x_train[:50] // 2, task="image", layout="HW", scale=0.5)
    other = build("cnn-tiny", spec)
    x = dataset.x_test[:9]
    np.testing.assert_allclose(run(swap_weights(traced, other), x), predict_logits(other, x), atol=1e-4)


def test_another_width_is_refused(traced, digits_cnn):
    other = build_model("cnn-tiny", digits_cnn.spec, num_classes=10, width=2.0)
    with pytest.raises(FedStillError, match=r"expected 1\.\S+ \(20.*\) in the traced graph, found \(10"):
        swap_weights(traced, other)


def test_another_architecture_is_refused(traced, digits_cnn):
    with pytest.raises(FedStillError, match="in the traced graph, found"):
        swap_weights(traced, build("cnn-small", digits_cnn.spec))


@pytest.mark.parametrize("secret", [str(REPOSITORY), str(Path.home()), "site-packages", ".py", "torch"])
def test_graph_holds_no_trace_of_where_it_was_made(traced, secret):
    assert secret.encode() not in traced.SerializeToString()


def test_stripping_removes_metadata():
    node = onnx.helper.make_node("Relu", ["a"], ["b"], doc_string="where")
    graph = onnx.helper.make_graph([node], "g", [], [], doc_string="secret")
    proto = onnx.helper.make_model(graph, producer_name="someone", doc_string="secret")
    onnx.helper.set_model_props(proto, {"path": "secret"})
    strip_metadata(proto)
    assert not any(word in proto.SerializeToString() for word in (b"secret", b"where", b"someone"))


def test_input_and_output_have_their_names_and_types(traced):
    session = open_session(traced.SerializeToString())
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.type, taken.shape[1:]) == ("samples", "tensor(uint8)", [8, 8])
    assert (given.name, given.type, given.shape[1:]) == ("logits", "tensor(float)", [10])


class Untraceable(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum().item() > 0 else x


def test_a_model_that_cannot_be_traced_is_one_line(digits_cnn):
    with pytest.raises(FedStillError, match="cannot export this model to ONNX: ") as raised:
        trace_model(Untraceable(), digits_cnn.spec)
    assert "\n" not in str(raised.value)


def test_tracing_is_silent(digits_cnn, capfd):
    trace_model(build("mlp-small", digits_cnn.spec), digits_cnn.spec)
    assert capfd.readouterr() == ("", "")


def test_tracing_draws_no_random_numbers(digits_cnn):
    model = build("mlp-small", digits_cnn.spec)
    state = torch.get_rng_state()
    trace_model(model, digits_cnn.spec)
    assert torch.equal(torch.get_rng_state(), state)


def never():
    raise AssertionError("traced again")


def test_a_graph_that_was_kept_is_not_traced_again_and_is_the_same(traced, tmp_path):
    kept = recall_trace(tmp_path, "cnn", lambda: traced)
    assert recall_trace(tmp_path, "cnn", never) == kept == traced
    with pytest.raises(AssertionError, match="traced again"):
        recall_trace(tmp_path, "another", never)


def test_a_damaged_graph_is_traced_again(traced, tmp_path):
    recall_trace(tmp_path, "cnn", lambda: traced)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert recall_trace(tmp_path, "cnn", lambda: traced) == traced
    assert recall_trace(tmp_path, "cnn", never) == traced


def test_only_so_many_graphs_are_kept(traced, tmp_path, monkeypatch):
    monkeypatch.setattr("fedstill.common.onnx_export.MAX_KEPT", 2)
    for key in "abc":
        recall_trace(tmp_path, key, lambda: traced)
    assert len(list(tmp_path.iterdir())) == 2


def test_where_nothing_can_be_kept_a_graph_is_traced_all_the_same(traced, tmp_path):
    (tmp_path / "file").touch()
    assert recall_trace(tmp_path / "file", "cnn", lambda: traced) == traced
