"""ExecuTorch programs: lowered, written as an artefact, run in a process that knows only the artefact."""

import csv
import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from fedstill.common.artefact import read_artefact, write_artefact
from fedstill.common.compressors import make_plan
from fedstill.common.compressors.exporting import ExportJob, export_model
from fedstill.common.compressors.pte import lower_to_pte
from fedstill.common.compressors.static_int8 import fold_constants
from fedstill.common.errors import ArtefactError, FedStillError
from fedstill.common.models import InputSpec
from fedstill.common.onnx_export import trace_model
from fedstill.common.runtimes.executorch_program import EXECUTORCH, MODEL_FILE
from fedstill.common.training import predict_logits

pytestmark = pytest.mark.xdist_group("pte")  # what they share takes long to make

HAS_EDGE = all(importlib.util.find_spec(name) for name in ("executorch", "torchao"))


def require_edge():
    if not HAS_EDGE and os.environ.get("CI") == "true":
        pytest.fail("the extra edge has to be installed where CI=true")
    if not HAS_EDGE:
        pytest.skip("the extra edge is not installed")


@pytest.fixture(scope="module")
def calibration(digits_cnn):
    return digits_cnn.dataset.x_train[:64]


@pytest.fixture(scope="module")
def program(digits_cnn, calibration):
    require_edge()
    return lower_to_pte(digits_cnn.model, digits_cnn.spec, calibration_S=calibration)


def open_program(content, num_threads=1):
    return EXECUTORCH.open({MODEL_FILE: content}, num_threads=num_threads, options={})


@pytest.fixture(scope="module")
def artefact_dir(digits_cnn, program, tmp_path_factory):
    spec, folder = digits_cnn.spec, tmp_path_factory.mktemp("pte")
    shape = {"task": spec.task, "shape": list(spec.sample_shape), "dtype": spec.dtype, "layout": spec.layout}
    manifest = {"runtime": "executorch", "input": shape, "classes": [str(index) for index in range(10)]}
    write_artefact(folder, {MODEL_FILE: program}, manifest)
    return folder


def test_the_program_is_nearly_as_accurate_as_the_model(digits_cnn, program):
    x, y = digits_cnn.dataset.x_test, digits_cnn.dataset.y_test
    exact = float(np.mean(predict_logits(digits_cnn.model, x).argmax(axis=1) == y))
    assert float(np.mean(open_program(program)(x).argmax(axis=1) == y)) > exact - 0.02


def test_the_program_is_smaller_than_floats(digits_cnn, program):
    floats = lower_to_pte(digits_cnn.model, digits_cnn.spec, calibration_S=None)
    assert len(program) < len(floats)
    x = digits_cnn.dataset.x_test[:32]
    np.testing.assert_allclose(open_program(floats)(x), predict_logits(digits_cnn.model, x), atol=1e-4)


def test_the_program_takes_raw_samples_one_at_a_time(digits_cnn, program):
    predict, x = open_program(program), digits_cnn.dataset.x_test[:5]
    assert (predict.sample_shape, predict.dtype, predict.num_classes) == ((8, 8), str(x.dtype), 10)
    np.testing.assert_array_equal(
        predict(x), np.concatenate([predict(x[index : index + 1]) for index in range(5)])
    )


def test_predict_runs_it_in_a_fresh_process_without_a_word(artefact_dir, tmp_path):
    output = tmp_path / "predictions.csv"
    command = [sys.executable, "-c", "from fedstill.clients.cli import main; main()"]
    done = subprocess.run(
        [*command, "predict", str(artefact_dir), "digits", "-o", str(output)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    with output.open() as file:
        found = [int(row["prediction"]) for row in csv.DictReader(file)]
    from fedstill.common.config import DataConfig
    from fedstill.common.datasets import load_dataset

    expected = read_artefact(artefact_dir).predict(load_dataset(DataConfig(), seed=0).x_test).argmax(axis=1)
    assert found == expected.tolist()


def test_a_missing_runtime_names_the_extra(artefact_dir):
    code = (
        "import sys; sys.modules['executorch'] = None\n"
        f"sys.argv = ['fedstill-node', 'predict', {str(artefact_dir)!r}, 'digits', '-o', '/dev/null']\n"
        "from fedstill.clients.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'fedstill[edge]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_truncated_program_is_refused_by_its_digest(artefact_dir, tmp_path):
    for path in artefact_dir.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / MODEL_FILE).write_bytes((artefact_dir / MODEL_FILE).read_bytes()[:-8])
    with pytest.raises(ArtefactError, match="truncated or altered"):
        read_artefact(tmp_path)


def test_a_foreign_file_with_a_right_digest_is_refused(artefact_dir, tmp_path):
    manifest = json.loads((artefact_dir / "manifest.json").read_text())
    write_artefact(tmp_path, {MODEL_FILE: b"no program at all" * 9}, manifest)
    with pytest.raises(ArtefactError, match=r"ExecuTorch cannot load .*model\.pte"):
        read_artefact(tmp_path)


def test_exporting_again_gives_the_same_bytes_and_leaves_torch_as_it_was(digits_cnn, calibration, program):
    graph = fold_constants(trace_model(digits_cnn.model, digits_cnn.spec))
    plan = make_plan(steps="quantise", runtime="executorch")
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    exported = export_model(ExportJob(digits_cnn.model, graph, digits_cnn.spec, plan, calibration))
    assert (exported.files, exported.runtime, exported.speeds_up) == (
        {MODEL_FILE: program},
        "executorch",
        True,
    )
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_calibration_of_another_shape_is_refused(digits_cnn):
    with pytest.raises(FedStillError, match=r"calibration samples are uint8 \(9, 9\), the model takes"):
        lower_to_pte(digits_cnn.model, digits_cnn.spec, calibration_S=np.zeros((4, 9, 9), np.uint8))


class _Router(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum().item() > 0 else x


def test_a_layer_that_cannot_be_traced_is_named(digits_cnn):
    require_edge()
    model = nn.Sequential(digits_cnn.model, nn.Sequential(nn.Linear(10, 10), _Router()))
    with pytest.raises(FedStillError, match=r"the layer 1\.1 \(_Router\)"):
        lower_to_pte(model, digits_cnn.spec, calibration_S=None)


def test_recurrent_layers_are_refused_by_name():
    require_edge()
    spec = InputSpec("series", (8, 3), "float32", "TF", 1.0, (0.0,) * 3, (1.0,) * 3)
    with pytest.raises(FedStillError, match=r"the layer 0 \(GRU\) step by step"):
        lower_to_pte(nn.Sequential(nn.GRU(3, 4)), spec, calibration_S=None)
