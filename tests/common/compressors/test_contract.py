"""What every compressor promises: reloads bit for bit, counts its bytes, says what it is for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedstill.common.artefact import count_artefact_bytes, read_artefact, write_artefact
from fedstill.common.compressors.registry import COMPRESSORS
from fedstill.common.compressors.structure import load_compressed
from fedstill.common.errors import ArtefactError
from fedstill.common.inference import predict_probabilities
from fedstill.common.models import build_model
from fedstill.common.training import digest_weights, predict_logits, save_weights

REPOSITORY = Path(__file__).resolve().parents[3]
# Reads each artefact in a process that never saw torch, nor the model's code.
READER = """
import sys
sys.modules.update(dict.fromkeys(("torch", "onnx", "safetensors", "torch_pruning")))
from pathlib import Path
import numpy as np
from fedstill.common.artefact import read_artefact
x = np.load(Path(sys.argv[1]) / "x.npy")
for folder in sorted(Path(sys.argv[1]).iterdir()):
    if folder.is_dir():
        np.save(folder.with_suffix(".npy"), read_artefact(folder).predict(x))
"""


@pytest.fixture(scope="module")
def compressed(compress):
    return {name: compress(entry.plan) for name, entry in COMPRESSORS.items()}


def describe(result, spec):
    model = result.exported
    takes = {"task": spec.task, "shape": list(spec.sample_shape), "dtype": spec.dtype, "layout": spec.layout}
    return {
        "input": takes,
        "classes": [str(digit) for digit in range(10)],
        "runtime": model.runtime,
        "session_options": model.session_options,
    }


@pytest.fixture(scope="module")
def folder(compressed, digits_cnn, tmp_path_factory):
    root = tmp_path_factory.mktemp("artefacts")
    np.save(root / "x.npy", digits_cnn.dataset.x_test)
    for name, result in compressed.items():
        write_artefact(root / name, result.exported.files, describe(result, digits_cnn.spec))
    subprocess.run(
        [sys.executable, "-c", READER, str(root)], check=True, cwd=REPOSITORY, env=os.environ, timeout=60
    )
    return root


@pytest.fixture(params=sorted(COMPRESSORS))
def name(request):
    return request.param


def test_a_fresh_process_predicts_the_same_bits(name, folder, compressed, digits_cnn):
    here = read_artefact(folder / name).predict(digits_cnn.dataset.x_test)
    np.testing.assert_array_equal(np.load(folder / f"{name}.npy"), here)
    assert here.shape == (len(digits_cnn.dataset.y_test), 10)


def test_the_student_reloads_from_its_weights_alone_bit_for_bit(name, compressed, digits_cnn, tmp_path):
    result = compressed[name]
    save_weights(result.model, tmp_path / "student.safetensors")
    fresh = build_model("cnn-medium", digits_cnn.spec, num_classes=10, width=0.25)
    load_compressed(fresh, tmp_path / "student.safetensors")
    assert digest_weights(fresh) == digest_weights(result.model)
    x = digits_cnn.dataset.x_test
    np.testing.assert_array_equal(predict_logits(fresh, x), predict_logits(result.model, x))


def test_it_still_knows_digits(name, folder, digits_cnn):
    probabilities = predict_probabilities(read_artefact(folder / name).predict, digits_cnn.dataset.x_test)
    assert (probabilities.argmax(1) == digits_cnn.dataset.y_test).mean() > 0.85


def test_bytes_on_disk_are_counted_and_fewer_than_the_floats(name, folder, compressed):
    on_disk = sum(path.stat().st_size for path in (folder / name).iterdir())
    assert count_artefact_bytes(folder / name) == on_disk
    floats = sum(value.numel() * 4 for value in compressed[name].design.state_dict().values())
    assert sum(map(len, compressed[name].exported.files.values())) < 0.6 * floats


def test_it_says_whether_it_computes_faster_or_only_shrinks(name, compressed):
    exported = compressed[name].exported
    assert exported.speeds_up is COMPRESSORS[name].speeds_up
    assert exported.method != "none"


def test_one_altered_byte_is_refused(name, folder, compressed, digits_cnn, tmp_path):
    result = compressed[name]
    write_artefact(tmp_path / "a", result.exported.files, describe(result, digits_cnn.spec))
    for file in result.exported.files:
        content = bytearray((tmp_path / "a" / file).read_bytes())
        for spoilt in (bytes(content[:-7]), bytes([*content[:9], content[9] ^ 1, *content[10:]])):
            (tmp_path / "a" / file).write_bytes(spoilt)
            with pytest.raises(ArtefactError, match=f"{file} is truncated or altered"):
                read_artefact(tmp_path / "a")
        (tmp_path / "a" / file).write_bytes(content)


def test_a_plan_is_json(name):
    assert json.loads(json.dumps(COMPRESSORS[name].plan.to_json()))["steps"] == list(
        COMPRESSORS[name].plan.steps
    )
