"""Static quantisation of a student that has learnt something."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fedstill.common.compressors.static_int8 import fold_constants, quantise_static
from fedstill.common.errors import FedStillError
from fedstill.common.inference import open_graph, predict_probabilities
from fedstill.common.models import build_model, measure_input
from fedstill.common.onnx_export import strip_metadata, trace_model
from fedstill.common.training import predict_logits


def run(proto, x):
    return predict_probabilities(open_graph(proto.SerializeToString()), x)


def serialise(proto):
    strip_metadata(proto)
    return proto.SerializeToString(deterministic=True)


@pytest.fixture(scope="module")
def traced(digits_cnn):
    return trace_model(digits_cnn.model, digits_cnn.spec)


@pytest.fixture(scope="module")
def calibration(digits_cnn):
    return digits_cnn.dataset.x_train[:128]


@pytest.fixture(scope="module")
def folded(traced):
    return fold_constants(traced)


@pytest.fixture(scope="module")
def quantised(folded, calibration):
    return quantise_static(folded, calibration)


def test_the_student_has_learnt(digits_cnn):
    x, y = digits_cnn.dataset.x_test, digits_cnn.dataset.y_test
    assert (predict_logits(digits_cnn.model, x).argmax(1) == y).mean() > 0.93


def test_folding_changes_no_prediction(traced, folded, digits_cnn):
    x = digits_cnn.dataset.x_test
    np.testing.assert_allclose(run(folded, x), run(traced, x), atol=1e-5)


def test_folding_drops_nodes(traced, folded):
    assert len(folded.graph.node) <= len(traced.graph.node)


def test_quantised_predictions_agree_with_the_floats(folded, quantised, digits_cnn):
    x = digits_cnn.dataset.x_test
    assert (run(quantised, x).argmax(1) == run(folded, x).argmax(1)).mean() >= 0.95


def test_quantised_accuracy_stays_within_two_points(folded, quantised, digits_cnn):
    x, y = digits_cnn.dataset.x_test, digits_cnn.dataset.y_test
    assert (run(quantised, x).argmax(1) == y).mean() >= (run(folded, x).argmax(1) == y).mean() - 0.02


def test_a_larger_model_shrinks_to_a_third(digits_cnn, calibration):
    model = build_model("mlp-large", digits_cnn.spec, num_classes=10)
    folded = fold_constants(trace_model(model, digits_cnn.spec))
    assert len(serialise(quantise_static(folded, calibration))) < len(serialise(folded)) / 3


def test_a_tiny_model_shrinks(folded, quantised):
    assert len(serialise(quantised)) < len(serialise(folded))


def test_the_same_input_gives_the_same_bytes(traced, calibration):
    first, second = (serialise(quantise_static(fold_constants(traced), calibration)) for _ in range(2))
    assert first == second


def test_the_input_model_is_left_untouched(traced, calibration):
    folded = fold_constants(traced)
    before = folded.SerializeToString(deterministic=True)
    quantise_static(folded, calibration)
    assert folded.SerializeToString(deterministic=True) == before


def test_weights_are_signed_bytes_per_channel(quantised):
    weights = [
        tensor
        for tensor in quantised.graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 4
    ]
    scales = {tensor.name: tuple(tensor.dims) for tensor in quantised.graph.initializer}
    assert len(weights) == 2
    assert all(scales[tensor.name.replace("_quantized", "_scale")] == (tensor.dims[0],) for tensor in weights)


def test_normalisation_stays_in_floats(quantised):
    made_by = {output: node for node in quantised.graph.node for output in node.output}
    before = []
    for node in quantised.graph.node:
        if node.op_type == "QuantizeLinear":
            break
        before.append(node.op_type)
    assert {"Cast", "Mul", "Add"} <= set(before)
    normalising = [node for node in quantised.graph.node if node.op_type in ("Mul", "Add")]
    feeding = [made_by[name].op_type for node in normalising for name in node.input if name in made_by]
    assert "DequantizeLinear" not in feeding


def test_nothing_to_calibrate_with_is_an_error(folded, calibration):
    with pytest.raises(FedStillError, match="needs samples to calibrate with, got none"):
        quantise_static(folded, calibration[:0])


def test_quantising_is_silent(folded, calibration, capfd, caplog):
    quantise_static(folded, calibration)
    assert (*capfd.readouterr(), caplog.text) == ("", "", "")


def test_one_sample_is_enough_to_calibrate(folded, calibration, digits_cnn):
    assert np.isfinite(run(quantise_static(folded, calibration[:1]), digits_cnn.dataset.x_test)).all()


def quantise_other(name, task, shape, dtype, num_ids=0):
    x = np.random.default_rng(0).integers(0, num_ids or 100, size=(32, *shape)).astype(dtype)
    spec = measure_input(x, task=task, layout="T" if num_ids else "CT", scale=1.0, num_ids=num_ids)
    return quantise_static(fold_constants(trace_model(build_model(name, spec, num_classes=4), spec)), x)


def test_embeddings_are_stored_in_bytes_with_a_range_per_column():
    quantised = quantise_other("embedding-bag", "text", (40,), "int16", num_ids=600)
    tensors = {tensor.name: tensor for tensor in quantised.graph.initializer}
    table = next(tensor for tensor in tensors.values() if tuple(tensor.dims) == (600, 16))
    assert table.data_type == onnx.TensorProto.INT8
    assert tuple(tensors[table.name.replace("_int8", "_scale")].dims) == (16,)
    assert not numpy_helper.to_array(table)[0].any(), "padding has to stay zero"


def test_recurrent_weights_are_folded_and_stored_in_bytes():
    quantised = quantise_other("series-gru", "series", (3, 20), "int16")
    (gru,) = [node for node in quantised.graph.node if node.op_type == "GRU"]
    made_by = {output: node for node in quantised.graph.node for output in node.output}
    types = {tensor.name: tensor.data_type for tensor in quantised.graph.initializer}
    for name in gru.input[1:3]:
        assert made_by[name].op_type == "DequantizeLinear"
        assert types[made_by[name].input[0]] == onnx.TensorProto.INT8


def test_a_small_table_of_positions_stays_in_floats():
    quantised = quantise_other("embedding-bag", "text", (40,), "int16", num_ids=10)
    assert not any("_int8" in tensor.name for tensor in quantised.graph.initializer)
