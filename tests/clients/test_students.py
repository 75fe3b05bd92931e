"""Students are built and exported the same everywhere."""

import dataclasses

import numpy as np
import onnx
import pytest
import torch

from fedstill.common.artefact import digest_files
from fedstill.common.compressors import make_plan
from fedstill.common.errors import FedStillError
from fedstill.common.inference import open_graph, predict_probabilities
from fedstill.common.students import build_student, describe_student, export_student
from fedstill.common.training import count_parameters, digest_weights, predict_logits


def test_initial_weights_follow_from_the_seed(digits):
    digests = [digest_weights(build_student(digits.design, seed=seed)) for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


def test_exported_floats_predict_as_torch_does(student, exported, digits):
    x = digits.dataset.x_test
    expected = torch.from_numpy(predict_logits(student, x)).softmax(1).numpy()
    np.testing.assert_allclose(predict_probabilities(open_graph(exported.fp32_model), x), expected, atol=1e-5)


def test_compressed_student_agrees_with_the_floats(exported, digits):
    fp32, int8 = (
        predict_probabilities(open_graph(model), digits.dataset.x_test).argmax(1)
        for model in (exported.fp32_model, exported.model.files["model.onnx"])
    )
    assert (fp32 == int8).mean() >= 0.95


def test_the_same_student_gives_the_same_bytes(student, exported, digits):
    again = export_student(student, digits.design, calibration_S=digits.dataset.x_train[:64])
    assert digest_files(again.model.files) == digest_files(exported.model.files)


def test_bytes_do_not_depend_on_what_was_exported_before(student, exported, digits):
    other = build_student(digits.design, seed=5)
    assert export_student(other, digits.design, calibration_S=digits.dataset.x_train[:64]) != exported
    assert export_student(student, digits.design, calibration_S=digits.dataset.x_train[:64]) == exported


def test_32_bits_leave_the_floats(student, digits):
    design = dataclasses.replace(digits.design, compression=make_plan(steps=""))
    exported = export_student(student, design, calibration_S=digits.dataset.x_train[:1])
    assert exported.model.files == {"model.onnx": exported.fp32_model}
    assert not exported.model.speeds_up


def test_exporting_draws_no_random_numbers(digits):
    design = dataclasses.replace(digits.design, width=0.5)
    student = build_student(design, seed=0)
    state = torch.get_rng_state()
    export_student(student, design, calibration_S=digits.dataset.x_train[:8])
    assert torch.equal(torch.get_rng_state(), state)


def test_no_calibration_samples_are_an_error(student, digits):
    with pytest.raises(FedStillError, match="calibrate"):
        export_student(student, digits.design, calibration_S=digits.dataset.x_train[:0])


def test_exported_graphs_carry_no_metadata(exported):
    for content in (exported.model.files["model.onnx"], exported.fp32_model):
        proto = onnx.load_from_string(content)
        assert not proto.metadata_props
        assert proto.producer_name == "fedstill"
        assert not any(node.doc_string or node.metadata_props for node in proto.graph.node)


def test_the_artefact_is_small(exported):
    assert len(exported.model.files["model.onnx"]) < 12_000


def test_the_manifest_describes_the_student(student, digits, manifest):
    assert manifest["input"] == {
        "task": "image",
        "shape": [8, 8],
        "dtype": "uint8",
        "layout": "HW",
    }
    assert manifest["num_parameters"] == count_parameters(student)
    assert manifest["compression"]["bits"] == 8
    assert set(manifest["versions"]) == {"fedstill", "onnxruntime", "torch"}


def test_the_manifest_names_the_columns_of_a_table(student, exported, digits):
    design = dataclasses.replace(digits.design, feature_names=("a", "b"))
    manifest = describe_student(student, design, exported, num_calibration=1, costs=[], origin={})
    assert manifest["input"]["features"] == ["a", "b"]
