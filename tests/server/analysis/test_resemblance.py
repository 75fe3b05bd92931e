"""A few nodes' models compared at the end of a real run, and what damaged ones lead to."""

from __future__ import annotations

import copy
import dataclasses
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from torch import nn

from fedstill.common.artefact import read_graph, write_artefact
from fedstill.common.compressors.quantisers import quantised_weights
from fedstill.common.config import Config, load_config
from fedstill.common.datasets import load_dataset, split_dataset
from fedstill.common.encoders import Encoder
from fedstill.common.errors import ArtefactError
from fedstill.common.features import compute_features
from fedstill.common.models import InputSpec, build_model, measure_input
from fedstill.common.onnx_export import trace_model
from fedstill.common.training import deterministic, save_weights
from fedstill.server.analysis.flips import read_flips, to_png, to_text, write_flips
from fedstill.server.analysis.resemblance import blank_value, compare_models, open_with_features
from fedstill.server.exchange.exchange import Exchange
from fedstill.server.exchange.publication import Publication
from fedstill.server.exchange.teacher import Teacher
from fedstill.server.figures.scoring import write_predictions
from fedstill.server.labels import LabelStore
from fedstill.server.run.state import FederationState, NodeState

NODES = ("node-0000", "node-0001")
CONFIG = load_config(overrides=["student.model=mlp-small", "monitoring.quality_nodes=2"])


def write_graph(folder: Path, content: bytes) -> None:
    takes = {"task": "image", "shape": [8, 8], "dtype": "uint8", "layout": "HW"}
    write_artefact(folder, {"model.onnx": content}, {"input": takes, "classes": ["0", "1"]})


@pytest.fixture(scope="module")
def students() -> list[tuple[nn.Module, bytes]]:
    """A student of each node, and its graph."""
    dataset = load_dataset(CONFIG.data, seed=0)
    spec = measure_input(dataset.x_train, task=dataset.task, layout=dataset.layout, scale=dataset.scale)
    made = []
    for seed in range(len(NODES)):
        with deterministic(seed, num_threads=1):
            model = build_model("mlp-small", spec, num_classes=10).eval()
        made.append((model, trace_model(model, spec).SerializeToString()))
    return made


@pytest.fixture
def run(tmp_path: Path, students: list[tuple[nn.Module, bytes]]) -> SimpleNamespace:
    """A run folder whose teacher is the first node's student, uncompressed; the second is another."""
    config = CONFIG
    dataset = load_dataset(config.data, seed=0)
    splits = split_dataset(dataset, data=config.data, federation=config.federation, seed=0)
    spec = measure_input(dataset.x_train, task=dataset.task, layout=dataset.layout, scale=dataset.scale)
    models = [copy.deepcopy(model) for model, _ in students]
    for node_id, (model, graph) in zip(NODES, students, strict=True):
        folder = tmp_path / "nodes" / node_id
        (folder / "artefact").mkdir(parents=True)
        save_weights(model, folder / "student.safetensors")
        write_graph(folder / "artefact", graph)
    publication = Publication("127.0.0.1:1", spec, dataset.class_names, (), b"", b"")
    teacher = Teacher("mlp-small", models[0], np.arange(10) < 1, 0)
    exchange = Exchange(config, LabelStore(tmp_path / "labels"), dataset, splits, spec, publication, teacher)
    nodes = {
        node_id: NodeState(
            node_id=node_id, family="mlp-small", num_train_samples=9, num_private_test=1, num_rounds=1
        )
        for node_id in NODES
    }
    state = FederationState(run_id="run", nodes=nodes)
    return SimpleNamespace(
        dir=tmp_path, config=config, state=state, exchange=exchange, models=models, told=[]
    )


def compare(run: SimpleNamespace, config: Config | None = None) -> dict:
    return compare_models(run.dir, config or run.config, run.state, run.exchange, observe=run.told.append)


def test_the_teacher_resembles_itself_and_a_stranger_is_at_the_floor(run: SimpleNamespace) -> None:
    found = compare(run)

    same, other = found[NODES[0]].artefact_to_teacher, found[NODES[1]].artefact_to_teacher
    assert (same.agreement_ratio, same.cka) == (1, pytest.approx(1))
    assert same.kl_nats == pytest.approx(0, abs=1e-6)
    assert (same.saliency_cosine, same.saliency_overlap) == (pytest.approx(1, abs=1e-4), 1)
    assert abs(other.saliency_cosine) < 0.5
    assert other.kl_nats == pytest.approx(found[NODES[1]].floor_to_teacher.kl_nats, rel=1)


def test_the_same_run_gives_the_same_comparison(run: SimpleNamespace) -> None:
    assert compare(run) == compare(run)


def test_without_a_teacher_artefacts_are_compared_with_students_alone(run: SimpleNamespace) -> None:
    run.exchange.teacher = None

    quality = compare(run)[NODES[1]]

    assert quality.artefact_to_teacher is None
    assert quality.artefact_to_fp32.agreement_ratio == 1
    assert quality.floor_to_fp32.agreement_ratio < 0.9


def test_a_student_of_few_bits_is_compared_with_what_it_was_trained_as(run: SimpleNamespace) -> None:
    config = load_config(overrides=["student.model=cnn-tiny", "compress.bits=1", "compress.qat=true"])
    run.exchange.config, folder = config, run.dir / "nodes" / NODES[1]
    with deterministic(1, num_threads=1):
        student = build_model("cnn-tiny", run.exchange.spec, num_classes=10).eval()
    save_weights(student, folder / "student.safetensors")
    with quantised_weights(student, config.compress.plan):
        write_graph(folder / "artefact", trace_model(student, run.exchange.spec).SerializeToString())

    quality = compare(run, config)[NODES[1]]

    assert quality.artefact_to_fp32.agreement_ratio == 1
    assert quality.artefact_to_fp32.kl_nats == pytest.approx(0, abs=1e-6)


def test_a_damaged_model_is_left_out_and_named(run: SimpleNamespace) -> None:
    (run.dir / "nodes" / NODES[0] / "artefact" / "model.onnx").write_bytes(b"\xff" * 99)

    assert list(compare(run)) == [NODES[1]]
    assert run.told[0].text.startswith(f"{NODES[0]} is left out of the comparison")


def test_an_artefact_of_another_shape_is_left_out(run: SimpleNamespace) -> None:
    wide = build_model("mlp-small", run.exchange.spec, num_classes=4).eval()
    content = trace_model(wide, run.exchange.spec).SerializeToString()
    write_graph(run.dir / "nodes" / NODES[0] / "artefact", content)

    assert list(compare(run)) == [NODES[1]]


def test_nothing_is_compared_where_it_is_switched_off_or_nothing_collected(run: SimpleNamespace) -> None:
    off = load_config(overrides=["monitoring.quality_nodes=0"])
    assert compare(run, off) == {}

    for node_id in NODES:
        (run.dir / "nodes" / node_id / "student.safetensors").unlink()
    assert compare(run) == {}


def test_a_graph_gives_the_features_that_its_model_has(run: SimpleNamespace) -> None:
    x_S = run.exchange.dataset.x_test[:9]

    session = open_with_features(read_graph(run.dir / "nodes" / NODES[1] / "artefact"), options={})

    _, features_SD = session.run(None, {session.get_inputs()[0].name: x_S})
    np.testing.assert_allclose(features_SD, compute_features(run.models[1], x_S), rtol=1e-4, atol=1e-5)


def _branch(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("If", ["logits"], ["x"], then_branch=body, else_branch=body))


def _read_elsewhere(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL


def _lose_the_head(model: onnx.ModelProto) -> None:
    kept = [node for node in model.graph.node if node.op_type not in ("Gemm", "MatMul")]
    del model.graph.node[:]
    model.graph.node.extend(kept)


@pytest.mark.parametrize("spoil", [_branch, _read_elsewhere, _lose_the_head])
def test_a_graph_that_no_student_has_is_not_run(
    run: SimpleNamespace, spoil: Callable[[onnx.ModelProto], None]
) -> None:
    model = onnx.load_model_from_string(read_graph(run.dir / "nodes" / NODES[0] / "artefact"))
    spoil(model)

    with pytest.raises(ArtefactError, match="expected a plain graph"):
        open_with_features(model.SerializeToString(), options={})


def test_a_place_is_covered_by_the_mean_of_its_channel() -> None:
    spec = InputSpec("image", (4, 4, 3), "uint8", "HWC", 0.5, (10.2, 20.0, 300.0), (1.0, 1.0, 1.0))

    assert blank_value(spec).tolist() == [[[20, 40, 255]]]


def predict(run: SimpleNamespace, node_id: str, flips: dict[int, tuple[int, int]]) -> None:
    classes_S = run.exchange.dataset.y_test.copy()
    fp32_S = classes_S.copy()
    for index, (before, after) in flips.items():
        fp32_S[index], classes_S[index] = before, after
    path = run.dir / "nodes" / node_id / "predictions.npy"
    write_predictions(path, classes_S, np.ones(len(classes_S)), fp32_S)


def test_flips_of_most_nodes_come_first(run: SimpleNamespace) -> None:
    predict(run, NODES[0], {3: (1, 2), 7: (4, 5)})
    predict(run, NODES[1], {7: (4, 5)})

    write_flips(run.dir, run.config, run.state, run.exchange)

    found = read_flips(run.dir)
    assert found is not None
    shown = [(flip.index, flip.num_nodes, flip.fp32_class, flip.artefact_class) for flip in found.flips]
    assert shown == [(7, 2, 4, 5), (3, 1, 1, 2)]
    assert found.flips[0].true_class == run.exchange.dataset.y_test[7]


def test_a_run_that_shows_no_samples_keeps_none(run: SimpleNamespace) -> None:
    write_flips(run.dir, load_config(overrides=["monitoring.quality_nodes=0"]), run.state, run.exchange)

    assert read_flips(run.dir) is None


@pytest.mark.parametrize(
    ("shape", "layout", "colour", "side"),
    [((8, 8), "HW", 0, 8), ((130, 130, 3), "HWC", 2, 44), ((3, 8, 8), "CHW", 2, 8), ((8, 8, 2), "HWC", 0, 8)],
)
def test_a_picture_holds_the_pixels(shape: tuple[int, ...], layout: str, colour: int, side: int) -> None:
    sample = np.random.default_rng(0).integers(0, 17, shape).astype(np.uint8)
    spec = InputSpec("image", shape, "uint8", layout, 1.0, (), ())

    png = to_png(sample, spec, (0.0, 16.0))

    width, height, bits, kind = struct.unpack(">IIBB", png[16:26])
    assert (width, height, bits, kind) == (side, side, 8, colour)
    size = struct.unpack(">I", png[33:37])[0]
    rows = zlib.decompress(png[41 : 41 + size])
    assert len(rows) == side * (1 + side * (3 if colour else 1))
    first = sample[:, 0, 0] if layout == "CHW" else np.ravel(sample[0, 0])
    assert rows[1] == round(int(first[0]) * 255 / 16)


def test_a_text_is_shown_as_the_model_sees_it() -> None:
    encoder = Encoder("words", ("heart", "rate"), 8)

    assert to_text(np.array([2, 1, 3, 0, 0]), encoder) == "heart · rate"
    assert to_text(np.array([3, 2]), dataclasses.replace(encoder, kind="letters")) == "rateheart"
