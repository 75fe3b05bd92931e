"""Artefacts are read as they were written, or refused."""

import contextlib
import dataclasses
import json
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedstill.clients.predict import predict_file
from fedstill.common import artefact as artefacts
from fedstill.common.artefact import (
    amend_manifest,
    collect_files,
    count_artefact_bytes,
    digest_files,
    read_artefact,
    read_graph,
    write_artefact,
)
from fedstill.common.compressors import make_plan
from fedstill.common.encoders import Encoder
from fedstill.common.errors import ArtefactError, DataError
from fedstill.common.inference import measure_latency, predict_probabilities
from fedstill.common.models import measure_input
from fedstill.common.students import StudentDesign, build_student, describe_student, export_student

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def rewrite(folder, change):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_an_artefact_comes_back(artefact_dir, digits):
    artefact = read_artefact(artefact_dir)
    assert artefact.sample_shape == (8, 8)
    assert artefact.dtype == "uint8"
    assert artefact.class_names == digits.dataset.class_names


def test_the_manifest_is_kept_with_digests_added(artefact_dir, manifest):
    read = read_artefact(artefact_dir).manifest
    assert {key: read[key] for key in manifest} == manifest
    assert read["files"]["model.onnx"]["bytes"] == (artefact_dir / "model.onnx").stat().st_size


def test_its_bytes_are_those_of_all_files(artefact_dir, exported, manifest, tmp_path):
    written = write_artefact(tmp_path / "again", exported.model.files, manifest)
    assert written == count_artefact_bytes(artefact_dir)
    assert written == sum(path.stat().st_size for path in artefact_dir.iterdir())


def test_it_predicts_digits(artefact_dir, digits):
    probabilities = predict_probabilities(read_artefact(artefact_dir).predict, digits.dataset.x_test)
    assert (probabilities.argmax(1) == digits.dataset.y_test).mean() > 0.9


def test_probabilities_add_up_to_one(artefact_dir, digits):
    probabilities = predict_probabilities(read_artefact(artefact_dir).predict, digits.dataset.x_test)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)


def test_probabilities_of_no_samples_are_none(artefact_dir, digits):
    predict = read_artefact(artefact_dir).predict
    assert predict_probabilities(predict, digits.dataset.x_test[:0]).shape == (0, 10)


def test_latency_is_positive(artefact_dir, digits):
    predict = read_artefact(artefact_dir).predict
    assert 0 < measure_latency(predict, digits.dataset.x_test, num_warmup=1, num_runs=5) < 1


def test_one_flipped_bit_of_the_model_is_refused(artefact_dir):
    content = bytearray((artefact_dir / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (artefact_dir / "model.onnx").write_bytes(content)
    with pytest.raises(ArtefactError, match=r"model.onnx is truncated or altered"):
        read_artefact(artefact_dir)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_regular_file_is_refused_at_once(artefact_dir, name, make):
    (artefact_dir / name).unlink()
    make(artefact_dir / name)
    with pytest.raises(ArtefactError, match=r"no regular file|symbolic link|Is a directory"):
        read_artefact(artefact_dir)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx"])
def test_a_file_without_end_is_not_read(artefact_dir, name):
    os.truncate(artefact_dir / name, 2**40)  # sparse: it takes no room on the disk
    with pytest.raises(ArtefactError, match=r"it is larger than [\d,]+ bytes"):
        read_artefact(artefact_dir)


def test_a_truncated_manifest_is_refused(artefact_dir):
    path = artefact_dir / "manifest.json"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ArtefactError, match=r"manifest.json is no valid JSON"):
        read_artefact(artefact_dir)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 100_000, b"[1]", b"null", b"{}", b"1e999"])
def test_a_manifest_of_something_else_is_refused(artefact_dir, content):
    (artefact_dir / "manifest.json").write_bytes(content)
    with pytest.raises(ArtefactError, match=r"manifest.json"):
        read_artefact(artefact_dir)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx"])
def test_a_missing_file_is_named(artefact_dir, name):
    (artefact_dir / name).unlink()
    with pytest.raises(ArtefactError, match=f"expected an artefact folder with .*No such file.*{name}"):
        read_artefact(artefact_dir)


@pytest.mark.parametrize("number", [2, 0, "1", None])
def test_a_foreign_format_is_refused(artefact_dir, number):
    rewrite(artefact_dir, lambda manifest: manifest.update(format=number))
    with pytest.raises(ArtefactError, match="this version reads artefacts of format 1"):
        read_artefact(artefact_dir)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("files"),
        lambda m: m.pop("input"),
        lambda m: m.pop("classes"),
        lambda m: m.update(classes=[]),
        lambda m: m.update(runtime=3),
        lambda m: m.update(session_options={"session.disable_quant_qdq": 1}),
        lambda m: m.update(session_options={"ep.context_file_path": "elsewhere"}),
        lambda m: m["files"].update({"../model.onnx": {"sha256": "0" * 64}}),
        lambda m: m["files"].update({"model.onnx": {"sha256": 0}}),
        lambda m: m.update(files=["model.onnx"]),
        lambda m: m.update(classes=list(range(10))),
        lambda m: m.update(classes="0123456789"),
        lambda m: m["input"].update(dtype="object"),
        lambda m: m["input"].update(dtype="3f4,,"),
        lambda m: m["input"].update(dtype=None),
        lambda m: m["input"].update(shape=[8, True]),
        lambda m: m["input"].update(shape=[8, -8]),
        lambda m: m["input"].update(features=3),
        lambda m: m.update(split=[]),
        lambda m: m.update(split={"seed": "x", "test_fraction": 0.2}),
        lambda m: m.update(split={"seed": 0, "test_fraction": 7.0}),
    ],
)
def test_a_garbled_key_is_refused(artefact_dir, change):
    rewrite(artefact_dir, change)
    with pytest.raises(ArtefactError, match="lacks or garbles"):
        read_artefact(artefact_dir)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["input"].update(shape=[64]),
        lambda m: m["input"].update(dtype="float32"),
        lambda m: m["classes"].pop(),
        lambda m: m["classes"].append("10"),
    ],
)
def test_a_manifest_that_describes_another_model_is_refused(artefact_dir, change):
    rewrite(artefact_dir, change)
    with pytest.raises(ArtefactError, match=r"does not describe model.onnx"):
        read_artefact(artefact_dir)


def test_a_model_that_onnx_runtime_cannot_load_is_refused(tmp_path, manifest):
    write_artefact(tmp_path, {"model.onnx": b"no graph"}, manifest)
    with pytest.raises(ArtefactError, match="ONNX Runtime cannot load"):
        read_artefact(tmp_path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.sampled_from(["input", "classes", "files", "split", "shape", "dtype", "features"]), value=JSON
)
def test_any_manifest_is_used_or_refused(artefact_dir, exported, manifest, place, value):
    changed = manifest | {"input": dict(manifest["input"])}
    (changed["input"] if place in ("shape", "dtype", "features") else changed)[place] = value
    write_artefact(artefact_dir, exported.model.files, changed)
    if place == "files":
        rewrite(artefact_dir, lambda m: m.update(files=value))
    with contextlib.suppress(ArtefactError, DataError):
        predict_file(artefact_dir, "digits", artefact_dir.parent / "out.csv")


def test_a_crash_before_the_manifest_leaves_an_incomplete_artefact(monkeypatch, artefact_dir, manifest):
    def crash(path, content):
        raise RuntimeError("power cut")

    monkeypatch.setattr(artefacts, "write_text_atomically", crash)
    with pytest.raises(RuntimeError):
        write_artefact(artefact_dir, {"model.onnx": b"another model"}, manifest)
    with pytest.raises(ArtefactError, match=r"manifest.json"):
        read_artefact(artefact_dir)


def test_a_crash_while_only_the_manifest_changes_leaves_the_old_artefact(
    monkeypatch, artefact_dir, exported, manifest
):
    def crash(path, content):
        raise RuntimeError("power cut")

    monkeypatch.setattr(artefacts, "write_text_atomically", crash)
    with pytest.raises(RuntimeError):
        write_artefact(artefact_dir, exported.model.files, manifest | {"accuracy": 1})
    assert "accuracy" not in read_artefact(artefact_dir).manifest


def test_no_temporary_file_is_left(artefact_dir):
    assert sorted(path.name for path in artefact_dir.iterdir()) == ["manifest.json", "model.onnx"]


ENCODER = Encoder("words", tuple(f"w{i}" for i in range(18)), 6)


@pytest.fixture(scope="module")
def text_model():
    x = np.random.default_rng(0).integers(0, 20, size=(32, 6)).astype(np.uint8)
    spec = measure_input(x, task="text", layout="T", scale=1.0, num_ids=20)
    design = StudentDesign("embedding-bag", 1.0, make_plan(steps="quantise"), spec, ("a", "b"), ("text",))
    student = build_student(design, seed=0)
    exported = export_student(student, design, calibration_S=x)
    manifest = describe_student(student, design, exported, num_calibration=32, costs=[], origin={})
    return exported.model.files, manifest


@pytest.fixture
def text_dir(tmp_path, text_model):
    write_artefact(tmp_path / "artefact", collect_files(text_model[0], encoder=ENCODER), text_model[1])
    return tmp_path / "artefact"


def test_an_artefact_of_text_brings_its_encoder(text_dir):
    artefact = read_artefact(text_dir)
    assert artefact.encoder == ENCODER
    assert count_artefact_bytes(text_dir) == sum(path.stat().st_size for path in text_dir.iterdir())
    assert set(artefact.manifest["files"]) == {"model.onnx", "encoder.json"}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), r"expected an artefact folder with .*No such file.*encoder\.json"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), r"encoder\.json is truncated or altered"),
    ],
)
def test_an_artefact_of_text_without_its_whole_encoder_is_refused(text_dir, spoil, message):
    spoil(text_dir / "encoder.json")
    with pytest.raises(ArtefactError, match=message):
        read_artefact(text_dir)


@pytest.mark.parametrize("change", [{"max_length": 7}, {"symbols": tuple(f"w{i}" for i in range(300))}])
def test_an_encoder_of_another_model_is_refused(tmp_path, text_model, change):
    files = collect_files(text_model[0], encoder=dataclasses.replace(ENCODER, **change))
    write_artefact(tmp_path / "artefact", files, text_model[1])
    with pytest.raises(ArtefactError, match=r"ids of \w+, the model takes"):
        read_artefact(tmp_path / "artefact")


def test_texts_are_predicted_in_their_order(text_dir, tmp_path):
    texts = ["w1 w2 W3", "nothing known", "w17, w16; w15"]
    (tmp_path / "raw.csv").write_text("text\n" + "\n".join(f'"{text}"' for text in texts) + "\n")
    assert predict_file(text_dir, str(tmp_path / "raw.csv"), tmp_path / "out.csv") == (3, None)
    expected = predict_probabilities(read_artefact(text_dir).predict, ENCODER.encode(texts)).argmax(1)
    assert (tmp_path / "out.csv").read_text().split()[1:] == [str(index) for index in expected]


def test_numbers_are_no_samples_for_a_model_of_text(text_dir, tmp_path):
    np.savez(tmp_path / "raw.npz", x=np.zeros((3, 6), np.uint8))
    with pytest.raises(DataError, match="expected text samples, got numbers"):
        predict_file(text_dir, str(tmp_path / "raw.npz"), tmp_path / "out.csv")


def test_any_set_of_files_is_written_and_the_old_ones_go(artefact_dir, exported, manifest):
    files = {**exported.model.files, "extra.bin": b"\1" * 9}
    written = write_artefact(artefact_dir, files, manifest)
    assert {path.name for path in artefact_dir.iterdir()} == {"model.onnx", "extra.bin", "manifest.json"}
    assert written == sum(path.stat().st_size for path in artefact_dir.iterdir())
    write_artefact(artefact_dir, exported.model.files, manifest)
    assert {path.name for path in artefact_dir.iterdir()} == {"model.onnx", "manifest.json"}


def test_an_altered_file_beside_the_model_is_refused(artefact_dir, exported, manifest):
    write_artefact(artefact_dir, {**exported.model.files, "extra.bin": b"\1" * 9}, manifest)
    (artefact_dir / "extra.bin").write_bytes(b"\1" * 8)
    with pytest.raises(ArtefactError, match=r"extra\.bin is truncated or altered"):
        read_artefact(artefact_dir)


def test_the_digest_is_over_names_and_contents_in_any_order():
    # Of "a <sha256 of 1>\nb <sha256 of 2>\n", by sha256sum.
    expected = "dab6fe8597331abab6970673e8e26830441ff8da812a685f36c51bc656fc54a2"
    files = {"b": b"2", "a": b"1"}
    assert digest_files(files) == digest_files(dict(sorted(files.items()))) == expected
    assert digest_files({"b": b"1", "a": b"2"}) != digest_files(files) != digest_files({"a": b"12"})


def test_the_manifest_names_the_digest_and_amending_leaves_it(artefact_dir, exported):
    artefact = read_artefact(artefact_dir)
    assert artefact.manifest["digest"] == digest_files(exported.model.files)
    assert amend_manifest(artefact, accuracy={"value": 0.5, "n": 2}) == count_artefact_bytes(artefact_dir)
    again = read_artefact(artefact_dir).manifest
    assert again == artefact.manifest | {"accuracy": {"value": 0.5, "n": 2}}


def test_a_runtime_that_this_version_lacks_is_named(artefact_dir):
    rewrite(artefact_dir, lambda manifest: manifest.update(runtime="abacus"))
    with pytest.raises(ArtefactError, match=r"unknown runtime 'abacus'.*onnxruntime.*Upgrade"):
        read_artefact(artefact_dir)


def test_the_graph_can_be_read_for_those_who_look_inside(artefact_dir, exported):
    assert read_graph(artefact_dir) == exported.model.files["model.onnx"]
