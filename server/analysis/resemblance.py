"""How alike a few nodes' models are to the teacher, and artefacts to what they were compressed from.

Measured once, at the end, on models that nodes handed in. Beside each figure stands its
floor: what the same architecture with random weights reaches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnxruntime import InferenceSession
from torch import nn

from fedstill.common.artefact import read_files, read_graph
from fedstill.common.compressors.quantisers import quantised_weights
from fedstill.common.compressors.structure import load_compressed
from fedstill.common.config import Config
from fedstill.common.encoders import PADDING
from fedstill.common.errors import ArtefactError, CheckpointError, ConfigError
from fedstill.common.features import compute_features
from fedstill.common.inference import open_session
from fedstill.common.models import InputSpec, build_model
from fedstill.common.models.foreign import takes_text
from fedstill.common.seeding import stream, stream_seed
from fedstill.common.training import deterministic, predict_logits
from fedstill.common.wire import plan_from_proto
from fedstill.server.analysis.alike import divide_sample, linear_cka, occlusion_saliency, saliency_agreement
from fedstill.server.exchange.exchange import Exchange
from fedstill.server.figures.labels import measure_divergence
from fedstill.server.planner import plan_node
from fedstill.server.run.events import Observer, Warned
from fedstill.server.run.state import FederationState, NodeState
from fedstill.server.run.summary import NodeQuality, Resemblance

NUM_SAMPLES = 256
# Occlusion runs a model up to 64 times per sample.
NUM_SALIENCY_SAMPLES = 16


@dataclass(frozen=True)
class _Subject:
    """A model as far as it is compared: logits (S, C), features (S, D), saliency maps (s, P)."""

    logits_SC: np.ndarray
    features_SD: np.ndarray
    saliency_SP: np.ndarray


@dataclass(frozen=True)
class _Questions:
    """What every model is asked; maps are those of `classes_S`, once it is known."""

    x_S: np.ndarray
    cells: np.ndarray
    blank: np.ndarray
    classes_S: np.ndarray | None = None


def compare_models(
    run_dir: Path, config: Config, state: FederationState, exchange: Exchange, *, observe: Observer
) -> dict[str, NodeQuality]:
    """Compares collected models of a few nodes, drawn by the seed.

    Saliency is that of occlusion for every model alike, since an 8-bit graph has no
    gradients. Features of the artefact are those that its own last layer is fed with.

    Args:
        run_dir: Folder with `nodes/<node>/student.safetensors` and `artefact/`.
        config: `monitoring.quality_nodes` says how many at most; 0 compares nothing.
        state: Which nodes took part.
        exchange: Evaluation samples and, where the scheme has one, the teacher.
        observe: Told of models that cannot be read; they are left out.

    Returns:
        Comparisons by node id; empty where no artefact was collected.
    """
    collected = [
        node_id
        for node_id, node in sorted(state.nodes.items())
        if node.num_rounds
        and (run_dir / "nodes" / node_id / "student.safetensors").is_file()
        and (run_dir / "nodes" / node_id / "artefact" / "manifest.json").is_file()
    ]
    count = min(config.monitoring.quality_nodes, len(collected))
    if not count:
        return {}
    rng = stream(config.seed, "quality")
    chosen = sorted(rng.choice(collected, size=count, replace=False).tolist())
    questions = _draw_questions(exchange, rng)
    found = {}
    # One thread: batches this small cost more to share out than to compute.
    with deterministic(stream_seed(config.seed, "quality-floor"), num_threads=1):
        teacher = _examine_teacher(exchange, questions, observe)
        for node_id in chosen:
            try:
                found[node_id] = _compare_node(
                    run_dir / "nodes" / node_id, state.nodes[node_id], exchange, teacher, questions
                )
            except (ArtefactError, CheckpointError, ConfigError) as error:
                observe(Warned(f"{node_id} is left out of the comparison of models: {error}"))
    return found


def _examine_teacher(exchange: Exchange, questions: _Questions, observe: Observer) -> _Subject | None:
    """Examines the teacher; None where there is none, or one that cannot be asked as students are."""
    if exchange.teacher is None or takes_text(exchange.teacher.model):
        return None
    try:
        return _examine_module(exchange.teacher.model, questions)
    except ConfigError as error:
        observe(Warned(f"the teacher is left out of the comparison of models: {error}"))
        return None


def _draw_questions(exchange: Exchange, rng: np.random.Generator) -> _Questions:
    x_S, spec = exchange.dataset.x_test, exchange.spec
    index = np.sort(rng.choice(len(x_S), size=min(NUM_SAMPLES, len(x_S)), replace=False))
    return _Questions(x_S[index], divide_sample(spec.sample_shape, spec.layout), blank_value(spec))


def blank_value(spec: InputSpec) -> np.ndarray:
    """Returns what covers a raw value: the mean of its channel, or padding where samples are ids."""
    dtype = np.dtype(spec.dtype)
    if spec.num_ids:
        return np.full((), PADDING, dtype)
    raw = np.array(spec.mean) / spec.scale
    if dtype.kind in "iu":
        raw = np.clip(np.rint(raw), np.iinfo(dtype).min, np.iinfo(dtype).max)
    shape = [1] * len(spec.sample_shape)
    if spec.channel_axis is not None:
        shape[spec.channel_axis] = len(raw)
    blank: np.ndarray = raw.astype(dtype).reshape(shape)
    return blank


def _compare_node(
    node_dir: Path, node: NodeState, exchange: Exchange, teacher: _Subject | None, questions: _Questions
) -> NodeQuality:
    plan = plan_node(exchange.config, exchange.spec, node)
    num_classes = exchange.dataset.num_classes
    untrained, student = (
        build_model(plan.model, exchange.spec, num_classes=num_classes, width=plan.width) for _ in range(2)
    )
    load_compressed(student, node_dir / "student.safetensors")
    artefact_dir = node_dir / "artefact"
    manifest, _ = read_files(artefact_dir)
    session = open_with_features(read_graph(artefact_dir), options=manifest.get("session_options", {}))
    with quantised_weights(student, plan_from_proto(plan)):  # what training for few bits has computed with
        if teacher is None:
            questions = replace(questions, classes_S=predict_logits(student, questions.x_S).argmax(axis=1))
        else:
            questions = replace(questions, classes_S=teacher.logits_SC.argmax(axis=1))
        fp32 = _examine_module(student, questions)
    floor = _examine_module(untrained, questions)
    artefact = _examine_graph(session, fp32, questions)

    def to_teacher(subject: _Subject) -> Resemblance | None:
        return None if teacher is None else _compare(subject, teacher)

    return NodeQuality(
        artefact_to_teacher=to_teacher(artefact),
        fp32_to_teacher=to_teacher(fp32),
        floor_to_teacher=to_teacher(floor),
        artefact_to_fp32=_compare(artefact, fp32),
        floor_to_fp32=_compare(floor, fp32),
    )


def _examine_module(model: nn.Module, questions: _Questions) -> _Subject:
    x_S = questions.x_S
    features_SD = compute_features(model, x_S).reshape(len(x_S), -1)
    return _examine(lambda x: predict_logits(model, x), features_SD, questions)


def _examine_graph(session: InferenceSession, fp32: _Subject, questions: _Questions) -> _Subject:
    name = session.get_inputs()[0].name

    def run(x_S: np.ndarray) -> list[np.ndarray]:
        return session.run(None, {name: np.ascontiguousarray(x_S)})  # type: ignore[no-any-return]

    try:
        logits_SC, features_SD = run(questions.x_S)
        if logits_SC.shape != fp32.logits_SC.shape or features_SD.size != fp32.features_SD.size:
            raise ValueError("its output has another shape than the student's")
    except Exception as error:  # noqa: BLE001 ONNX Runtime's errors share no public base
        raise ArtefactError(f"cannot run the artefact: {str(error).splitlines()[0]}") from None
    return _examine(lambda x: run(x)[0], features_SD.reshape(fp32.features_SD.shape), questions)


def _examine(
    predict: Callable[[np.ndarray], np.ndarray], features_SD: np.ndarray, questions: _Questions
) -> _Subject:
    logits_SC = predict(questions.x_S)
    classes_S = logits_SC.argmax(axis=1) if questions.classes_S is None else questions.classes_S
    saliency_SP = occlusion_saliency(
        predict,
        questions.x_S[:NUM_SALIENCY_SAMPLES],
        classes_S[:NUM_SALIENCY_SAMPLES],
        cells=questions.cells,
        blank=questions.blank,
    )
    return _Subject(logits_SC, features_SD, saliency_SP)


def _compare(subject: _Subject, other: _Subject) -> Resemblance:
    saliency = saliency_agreement(subject.saliency_SP, other.saliency_SP)
    cka = linear_cka(subject.features_SD, other.features_SD)
    classes_S, other_S = subject.logits_SC.argmax(axis=1), other.logits_SC.argmax(axis=1)
    return Resemblance(
        agreement_ratio=float(np.mean(classes_S == other_S)),
        kl_nats=measure_divergence(other.logits_SC, subject.logits_SC, temperature=1.0),
        cka=None if math.isnan(cka) else cka,
        saliency_cosine=saliency.cosine,
        saliency_overlap=saliency.overlap,
    )


def open_with_features(content: bytes, *, options: Mapping[str, str]) -> InferenceSession:
    """Opens an artefact's graph so that it returns its penultimate features too.

    Args:
        content: The serialised graph, as a node handed it in.
        options: What its manifest sets of a session.

    Returns:
        A session with two outputs: logits, as before, and what the last layer is fed with.

    Raises:
        ArtefactError: No such graph, or one that loops, branches or reads other files:
            students do not, and what a node sends is not run blindly.
    """
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise ArtefactError(f"cannot read its graph: {error}") from None
    graph = model.graph
    heads = [node for node in graph.node if node.op_type in ("Gemm", "MatMul")]
    nests = any(
        attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute
    )
    reads = any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.initializer)
    if not heads or nests or reads or len(graph.input) != 1 or len(graph.output) != 1:
        raise ArtefactError(
            "expected a plain graph with one input, one output and a last linear layer; found another"
        )
    graph.output.append(onnx.helper.make_tensor_value_info(heads[-1].input[0], onnx.TensorProto.FLOAT, None))
    try:
        return open_session(model.SerializeToString(), options=options)
    except Exception as error:  # noqa: BLE001 ONNX Runtime's errors share no public base
        raise ArtefactError(f"ONNX Runtime cannot load its graph: {str(error).splitlines()[0]}") from None
