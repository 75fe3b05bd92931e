"""`fedstill compress` on digits: rows that a device can run, a front, and going on where it stopped."""

import csv
import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from fedstill.common.artefact import read_artefact
from fedstill.common.config import DataConfig
from fedstill.common.datasets import load_dataset
from fedstill.common.errors import CheckpointError, DataError, UsageError
from fedstill.server import cli
from fedstill.server.compress import FRONT_FILE, PICTURE_FILE, Front, compress_model
from fedstill.server.compress.folder import ROW_FILE


def untraceable(spec, num_classes):
    class Router(nn.Module):
        def forward(self, x):
            return x * 2 if x.sum().item() > 0 else x

    return nn.Sequential(nn.Flatten(), Casting(), nn.Sequential(nn.Linear(64, num_classes), Router()))


class Casting(nn.Module):
    def forward(self, x):
        return x.float()


def three_logits(spec, num_classes):
    return nn.Sequential(nn.Flatten(), Casting(), nn.Linear(64, 3))


def rows_of(front):
    return {row.name: row for row in front.rows}


def test_every_plan_stands_beside_the_given_model_and_the_control(compressed):
    rows = rows_of(compressed[1])
    assert list(rows) == ["fp32 as given", "fp32 control", "int8", "prune 0.5 + int8"]
    assert rows["prune 0.5 + int8"].num_parameters < 0.5 * rows["int8"].num_parameters
    assert rows["prune 0.5 + int8"].macs < 0.6 * rows["fp32 control"].macs
    assert rows["int8"].artefact_bytes < rows["fp32 control"].artefact_bytes
    assert all(row.latency_seconds_batch1 > 0 and row.latency_seconds_batch64 > 0 for row in rows.values())


def test_accuracy_is_that_of_the_artefact_on_the_test_part(compressed, tmp_path):
    output_dir, front = compressed
    row = rows_of(front)["prune 0.5 + int8"]
    output = tmp_path / "predictions.csv"
    command = [sys.executable, "-c", "from fedstill.clients.cli import main; main()", "predict"]
    subprocess.run([*command, str(output_dir / row.artefact), "digits", "-o", str(output)], check=True)
    with output.open() as file:
        predicted = [int(line["prediction"]) for line in csv.DictReader(file)]
    y_test = load_dataset(DataConfig(), seed=0).y_test
    assert row.accuracy == pytest.approx(np.mean(predicted == y_test))
    assert row.accuracy > 0.5


def test_one_front_is_written_as_json_and_as_a_picture(compressed):
    output_dir, front = compressed
    assert Front.model_validate_json((output_dir / FRONT_FILE).read_text()) == front
    assert (output_dir / PICTURE_FILE).read_bytes().startswith(b"\x89PNG")
    assert any(row.on_front for row in front.rows)


def test_what_is_finished_is_not_made_again(compressed, make_request):
    output_dir, front = compressed
    stamps = {path: path.stat().st_mtime_ns for path in output_dir.rglob(ROW_FILE)}
    said = []
    again = compress_model(make_request(output_dir), say=said.append)
    assert not [line for line in said if "training" in line]
    assert stamps == {path: path.stat().st_mtime_ns for path in output_dir.rglob(ROW_FILE)}
    assert [row.digest for row in again.rows] == [row.digest for row in front.rows]


def test_a_row_that_was_lost_is_made_again_with_the_same_bytes(compressed, make_request):
    output_dir, front = compressed
    (output_dir / "prune-0.5-int8" / ROW_FILE).unlink()
    again = compress_model(make_request(output_dir), say=lambda _: None)
    assert [row.digest for row in again.rows] == [row.digest for row in front.rows]


def test_a_folder_of_other_settings_is_refused(compressed, make_request):
    with pytest.raises(UsageError, match=r"holds a compression with seed = 0, now it is 1"):
        compress_model(make_request(compressed[0], seed=1), say=lambda _: None)


@pytest.fixture(scope="module")
def graph_path(compressed, tmp_path_factory):
    output_dir, front = compressed
    path = tmp_path_factory.mktemp("onnx") / "teacher.onnx"
    path.write_bytes((output_dir / rows_of(front)["fp32 as given"].artefact / "model.onnx").read_bytes())
    return path


def test_an_onnx_file_is_quantised_as_it_is(graph_path, make_request, tmp_path):
    front = compress_model(
        make_request(tmp_path, model=str(graph_path), model_name="auto", plans=("bits=8",)),
        say=lambda _: None,
    )
    rows = rows_of(front)
    assert list(rows) == ["fp32 as given", "int8"]
    assert rows["int8"].agreement > 0.95
    assert read_artefact(tmp_path / rows["int8"].artefact).class_names == tuple("0123456789")


def test_an_onnx_file_cannot_be_pruned(graph_path, make_request, tmp_path):
    with pytest.raises(UsageError, match=r"holds no layers to train.* --model"):
        compress_model(make_request(tmp_path, model=str(graph_path), model_name="auto"), say=lambda _: None)


def test_an_onnx_file_teaches_a_student_that_is_compressed(graph_path, make_request, tmp_path):
    request = make_request(tmp_path, model=str(graph_path), model_name="cnn-tiny", width=0.8)
    rows = rows_of(compress_model(request, say=lambda _: None))
    assert list(rows) == ["fp32 as given", "fp32 control", "int8", "prune 0.5 + int8"]
    assert rows["fp32 control"].num_parameters < rows["fp32 as given"].num_parameters
    assert rows["fp32 control"].agreement > 0.5


def test_an_onnx_file_of_other_samples_is_refused(make_request, tmp_path):
    weights = numpy_helper.from_array(np.ones((5, 10), np.float32), "w")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, ["batch", 5])],
        [onnx.helper.make_tensor_value_info("y", 1, ["batch", 10])],
        [weights],
    )
    path = tmp_path / "other.onnx"
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)
    with pytest.raises(DataError, match=r"takes samples \(5,\) float32, the data holds \(8, 8\)"):
        compress_model(make_request(tmp_path / "out", model=str(path)), say=lambda _: None)


def test_a_damaged_onnx_file_is_refused(make_request, tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match="is no ONNX graph"):
        compress_model(make_request(tmp_path / "out", model=str(path)), say=lambda _: None)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nothing.pt", "expected a .safetensors file, an .onnx file or module:function"),
        ("missing.safetensors", "no such file"),
        (f"{__name__}:absent", "holds no 'absent'"),
        (f"{__name__}:three_logits", r"expected logits \(2, 10\)"),
        (f"{__name__}:untraceable", r"the layer 2\.1 \(Router\) cannot be traced"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_in_words(model, message, make_request, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or _this_module())
    with pytest.raises(UsageError, match=message):
        compress_model(make_request(tmp_path, model=model), say=lambda _: None)


def _this_module():
    import types

    module = types.ModuleType(__name__)
    module.untraceable, module.three_logits = untraceable, three_logits
    return module


def test_calibration_samples_of_another_shape_are_refused(make_request, tmp_path):
    np.savez(tmp_path / "wrong.npz", x=np.zeros((20, 9, 9), np.uint8), y=np.arange(20) % 2)
    with pytest.raises(DataError, match=r"calibration samples are uint8 \(9, 9\), the model takes"):
        compress_model(
            make_request(tmp_path / "out", calibration=str(tmp_path / "wrong.npz")), say=lambda _: None
        )


def test_the_command_prints_the_front_as_json(compressed, checkpoint, monkeypatch, capsys):
    output_dir, _ = compressed
    arguments = ["compress", str(checkpoint), "--data", "digits", "--model", "cnn-tiny", "--json"]
    arguments += ["--epochs", "2", "--learning-rate", "0.003", "--threads", "1", "-o", str(output_dir)]
    monkeypatch.setattr(sys, "argv", ["fedstill", *arguments, "--plan", "bits=8"])
    assert cli.run() == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["rows"]] == [
        "fp32 as given",
        "fp32 control",
        "int8",
    ]
    assert torch.is_grad_enabled()


def test_the_command_names_a_mistake_in_one_line(tmp_path, monkeypatch, capsys):
    arguments = ["compress", "x.onnx", "--data", "digits", "-o", str(tmp_path), "--plan", "prine=0.5"]
    monkeypatch.setattr(sys, "argv", ["fedstill", *arguments])
    assert cli.run() == 2
    assert "did you mean 'prune'?" in capsys.readouterr().err
