"""What is the user's own, tried out on a few samples before anything is trained.

A stranger's model, loss, codec or aggregator may fail in ways that show only on a node, in the last
round, or in the file that a device should run. Each is put through all of that here, small.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from fedstill.common.codecs import CODECS, get_codec
from fedstill.common.compressors.exporters import EXPORTERS
from fedstill.common.compressors.recovery import make_recovery
from fedstill.common.config import Config
from fedstill.common.costs import count_macs
from fedstill.common.errors import ConfigError, FedStillError
from fedstill.common.features import compute_features
from fedstill.common.inference import open_graph
from fedstill.common.losses import FEATURE_LOSSES, LOSSES, compares_features, feature_tap, get_loss
from fedstill.common.models import MODELS, InputSpec, build_model, resolve_model
from fedstill.common.models.batched import why_not_batched
from fedstill.common.models.foreign import takes_text
from fedstill.common.modules import call_foreign, describe_fault
from fedstill.common.runtimes import get_runtime
from fedstill.common.students import StudentDesign, build_student, export_student
from fedstill.common.tracing import find_untraceable_layer
from fedstill.common.training import Optimisation, deterministic, fit, predict_logits, to_input
from fedstill.server.aggregators import AGGREGATORS, Aggregated, AggregatorOptions, get_aggregator
from fedstill.server.exchange.exchange import Exchange
from fedstill.server.exchange.teacher import build_teacher, find_own_teacher, seen_by, teacher_device
from fedstill.server.schemes import get_scheme

NUM_SAMPLES = 8
NUM_STEPS = 8
# Floats of torch and of ONNX Runtime part by rounding; beyond this another function was exported.
TOLERANCE = 1e-2


def try_own(exchange: Exchange, *, holds_teacher: bool) -> None:
    """Tries out whatever the configuration names that is not ours; what is built in costs nothing here.

    Args:
        exchange: Data and configuration; nothing has been trained or published yet.
        holds_teacher: The teacher's weights are there already: it is not trained.

    Raises:
        ConfigError: One line on what fails, and where.
    """
    config = exchange.config
    scheme = get_scheme(config.federation.scheme)
    with _silent(), torch.random.fork_rng(devices=[]):
        try_loss(config.distill.loss, num_classes=exchange.dataset.num_classes)
        if config.exchange.codec != "auto":
            try_codec(config.exchange.codec, num_classes=exchange.dataset.num_classes)
        if scheme.rows == "public":
            try_aggregator(config, num_classes=exchange.dataset.num_classes)
        if scheme.has_teacher and not config.teacher.labels:
            try_teacher(exchange, holds_teacher=holds_teacher or bool(config.teacher.checkpoint))
        for name in dict.fromkeys(part.strip() for part in config.student.model.split(",")):
            model = resolve_model(name, role="student", spec=exchange.spec)
            try_student(exchange, model)
            if config.federation.cohort == "require":
                try_cohort(exchange, model)


def try_cohort(exchange: Exchange, name: str) -> None:
    """Raises `ConfigError` where students of that name cannot be trained in batches of them."""
    config, spec = exchange.config, exchange.spec
    reason = ""
    if get_scheme(config.federation.scheme).rows in ("classes", "features"):
        reason = f"in scheme {config.federation.scheme} they train by themselves"
    elif config.distill.mode == "auto":
        reason = "with distill.mode = 'auto' they look at themselves between the steps"
    elif compares_features(config.distill.loss):
        reason = f"{config.distill.loss} compares features"
    elif config.compress.plan.changes_training:
        reason = "they are compressed while they train"
    else:
        model = build_model(name, spec, num_classes=exchange.dataset.num_classes, width=config.student.width)
        num_macs = count_macs(model, spec.sample_shape, spec.dtype)
        hindrance = why_not_batched(model, num_macs=num_macs)
        reason = f"of {name} {hindrance}" if hindrance else ""
    if reason:
        raise ConfigError(
            f"federation.cohort is require, and students cannot be trained in batches: {reason};"
            " set it to auto"
        )


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    # torch's exporter tells standard error, and its logs, at length what we say in a line.
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def try_loss(name: str, *, num_classes: int) -> None:
    """Calls a loss of the user's on drawn logits; raises `ConfigError` where it is no finite scalar."""
    if name in LOSSES.built_in or name in FEATURE_LOSSES.built_in:
        return
    logits, targets = torch.randn(2, NUM_SAMPLES, num_classes).unbind()
    logits.requires_grad_()
    if compares_features(name):
        value = call_foreign(FEATURE_LOSSES[name], logits, targets, name=name, key="distill.loss")
    else:
        value = call_foreign(get_loss(name), logits, targets, temperature=4.0, name=name, key="distill.loss")
    if not isinstance(value, torch.Tensor) or value.dim() != 0:
        found = f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
        raise ConfigError(f"distill.loss: expected {name} to return a tensor of one number, got {found}")
    if not torch.isfinite(value) or not value.requires_grad:
        what = "a number that is not finite" if value.requires_grad else "one without gradient"
        raise ConfigError(f"distill.loss: {name} of drawn logits gives {what}")


def try_codec(name: str, *, num_classes: int) -> None:
    """Sends drawn logits through a codec of the user's; raises `ConfigError` where they come out wrong."""
    codec, key = get_codec(name), "exchange.codec"
    if name in CODECS.built_in:
        return
    logits_SC = np.random.default_rng(0).normal(size=(NUM_SAMPLES, num_classes)).astype(np.float32)
    payload = call_foreign(codec.encode, logits_SC, temperature=4.0, name=f"{name}.encode", key=key)
    if not isinstance(payload, bytes):
        raise ConfigError(f"{key}: expected {name}.encode to return bytes, got {type(payload).__name__}")
    shape = {"num_samples": NUM_SAMPLES, "num_classes": num_classes}
    decoded = call_foreign(codec.decode, payload, **shape, temperature=4.0, name=f"{name}.decode", key=key)
    _require_logits(decoded, f"{name}.decode", key=key, shape=logits_SC.shape)
    most = call_foreign(
        codec.max_payload_bytes, NUM_SAMPLES, num_classes, name=f"{name}.max_payload_bytes", key=key
    )
    if len(payload) > most:
        raise ConfigError(f"{key}: {name} wrote {len(payload)} bytes, its max_payload_bytes says {most}")


def try_aggregator(config: Config, *, num_classes: int) -> None:
    """Aggregates drawn logits of three nodes; raises `ConfigError` where no ensemble comes of it."""
    name, key = config.federation.aggregator, "federation.aggregator"
    if name in AGGREGATORS.built_in:
        return
    rng = np.random.default_rng(0)
    logits_NSC = rng.normal(size=(3, NUM_SAMPLES, num_classes)).astype(np.float32)
    present_NS = np.ones((3, NUM_SAMPLES), np.bool_)
    present_NS[:, 0], logits_NSC[:, 0] = False, np.nan
    options = AggregatorOptions(
        counts_N=np.full(3, 10),
        counts_NC=np.full((3, num_classes), 2),
        weights_N=np.ones(3),
    )
    found = call_foreign(
        get_aggregator(name), logits_NSC, present_NS=present_NS, options=options, name=name, key=key
    )
    if not isinstance(found, Aggregated):
        raise ConfigError(f"{key}: expected {name} to return an Aggregated, got {type(found).__name__}")
    covered = np.asarray(found.covered_S)
    if covered.shape != (NUM_SAMPLES,) or not np.array_equal(
        covered.astype(np.bool_), present_NS.any(axis=0)
    ):
        raise ConfigError(
            f"{key}: covered_S of {name} should say of each sample whether any node answered it"
        )
    _require_logits(found.logits_SC, name, key=key, shape=(NUM_SAMPLES, num_classes))


def _require_logits(found: Any, name: str, *, key: str, shape: tuple[int, ...]) -> None:
    is_array = isinstance(found, np.ndarray)
    if not is_array or found.shape != shape or found.dtype != np.float32 or not np.isfinite(found).all():
        what = f"{found.dtype} {found.shape}" if is_array else type(found).__name__
        raise ConfigError(
            f"{key}: expected {name} to give finite float32 logits of shape {shape}, got {what}"
        )


def try_teacher(exchange: Exchange, *, holds_teacher: bool) -> None:
    """Runs a teacher of the user's on a few samples, backwards too where it is to be trained."""
    config = exchange.config
    own, key = find_own_teacher(config.teacher)
    if not own:
        resolve_model(config.teacher.model, role="teacher", spec=exchange.spec)
        return
    dataset, splits = exchange.dataset, exchange.splits
    name, model = build_teacher(config.teacher, dataset, splits, exchange.spec, seed=config.seed)
    if takes_text(model):
        _refuse_texts(config, key=key, name=name)
    chosen = splits.server_train[:NUM_SAMPLES]
    device = teacher_device(config.teacher)
    with deterministic(0, num_threads=config.teacher.num_threads):
        try_module(
            model.to(device),
            to_input(seen_by(model, dataset).x_train[chosen], device),
            torch.from_numpy(dataset.y_train[chosen]).to(device),
            num_classes=dataset.num_classes,
            learns=not holds_teacher,
            name=name,
            key=key,
        )
    if compares_features(config.distill.loss):
        kind = feature_tap(config.distill.loss)
        _attempt(
            lambda: compute_features(model.cpu(), dataset.x_train[chosen], kind=kind), name=name, key=key
        )


def _refuse_texts(config: Config, *, key: str, name: str) -> None:
    hindrance = ""
    if config.distill.num_views > 1:
        hindrance = "distill.num_views changes ids: set it to 1"
    elif compares_features(config.distill.loss):
        hindrance = "distill.loss compares features of ids: take one of logits"
    elif config.federation.scheme == "co-teaching":
        hindrance = "the scheme co-teaching trains it on ids: take teacher"
    if hindrance:
        raise ConfigError(f"{key}: {name} takes texts, and {hindrance}")


def try_module(
    model: nn.Module, x: Any, y: torch.Tensor, *, num_classes: int, learns: bool, name: str, key: str
) -> None:
    """Runs a batch forwards, and backwards where the model is to learn.

    Args:
        model: From samples to logits, on the device where it will work.
        x: Samples, as the model takes them.
        y: Their classes (S,), int64.
        num_classes: Logits that it should return.
        learns: Whether gradients have to reach its parameters.
        name: What the user calls it.
        key: The configuration's key.

    Raises:
        ConfigError: It raises, answers with another shape or with numbers that are not finite, or
            nothing of it would learn.
    """
    logits = call_foreign(model.train(learns), x, name=f"the model of {name}", key=key)
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != (len(y), num_classes):
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ConfigError(
            f"{key}: {name} gives {found} for {len(y)} samples; expected logits ({len(y)}, {num_classes}),"
            " a column per class"
        )
    if not logits.is_floating_point() or not torch.isfinite(logits).all():
        raise ConfigError(f"{key}: {name} gives logits that are not finite floats, of {logits.dtype}")
    if not learns:
        return
    if not logits.requires_grad:
        raise ConfigError(f"{key}: no gradient reaches {name}: no parameter of it takes part with gradient")
    _attempt(
        lambda: functional.cross_entropy(logits, y).backward(),  # type: ignore[no-untyped-call]
        name=f"the backward pass of {name}",
        key=key,
    )
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    if not gradients:
        raise ConfigError(f"{key}: no gradient reaches any parameter of {name}")
    if not all(torch.isfinite(gradient).all() for gradient in gradients):
        raise ConfigError(f"{key}: gradients of {name} are not finite")


def _attempt(work: Callable[[], Any], *, name: str, key: str) -> Any:
    try:
        return work()
    except FedStillError as error:
        raise ConfigError(f"{key}: {name}: {error}") from None
    except Exception as error:  # noqa: BLE001 - whatever a stranger's model makes of ours
        raise ConfigError(f"{key}: {name} fails with {describe_fault(error)}") from None


def try_student(exchange: Exchange, model: str) -> None:
    """Trains a student of the user's for a few steps as its plan compresses it, and opens its artefact."""
    config, spec, key = exchange.config, exchange.spec, "student.model"
    is_own = model not in MODELS.built_in or config.compress.runtime not in EXPORTERS.built_in
    publication = exchange.publication
    design = StudentDesign(
        model,
        config.student.width,
        config.compress.plan,
        spec,
        publication.class_names,
        publication.feature_names,
    )
    student = build_student(design, seed=0)
    if not is_own:
        return
    dataset, chosen = exchange.dataset, exchange.splits.server_train[:NUM_SAMPLES]
    x_S, y = dataset.x_train[chosen], torch.from_numpy(dataset.y_train[chosen])
    with deterministic(0, num_threads=1):
        try_module(
            student, to_input(x_S), y, num_classes=dataset.num_classes, learns=True, name=model, key=key
        )
        student.zero_grad(set_to_none=True)
        if get_scheme(config.federation.scheme).rows == "features" or compares_features(config.distill.loss):
            kind = feature_tap(config.distill.loss) if compares_features(config.distill.loss) else "hint"
            _attempt(lambda: compute_features(student, x_S, kind=kind), name=model, key=key)
        if design.compression.changes_training:
            what = f"{model} under compress.steps = {','.join(design.compression.steps)}"
            _attempt(lambda: _train(student, design, x_S, y), name=what, key=key)
        _try_export(student.eval(), design, x_S, name=model, key=key)


def _train(student: nn.Module, design: StudentDesign, x_S: np.ndarray, y: torch.Tensor) -> None:
    recovery = make_recovery(
        design.compression,
        design.spec,
        design=build_student(design, seed=0),
        measure=lambda _: None,
        costs=[],
    )
    assert recovery is not None
    fit(
        student,
        iter([(to_input(x_S), y)] * NUM_STEPS),
        lambda module, batch: (functional.cross_entropy(module(batch[0]), batch[1]),),
        loss_weights=(1.0,),
        num_steps=NUM_STEPS,
        optimisation=Optimisation(1e-4, 0.0),
        guest=recovery(NUM_STEPS),
    )


def _try_export(student: nn.Module, design: StudentDesign, x_S: np.ndarray, *, name: str, key: str) -> None:
    try:
        exported = export_student(student, design, calibration_S=x_S)
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001 - torch, ONNX and their runtimes share no base of errors
        cause = str(error) if isinstance(error, FedStillError) else describe_fault(error)
        place = "" if "layer" in cause else _name_layer(student, design.spec)
        raise ConfigError(f"{key}: {name} does not become an artefact{place}: {cause}") from None
    logits_SC = _attempt(lambda: open_graph(exported.fp32_model)(x_S), name=f"the graph of {name}", key=key)
    if design.compression.bits not in (4, 1):  # whose graph holds the weights that are stored
        expected_SC = predict_logits(student, x_S)
        if not np.allclose(logits_SC, expected_SC, rtol=TOLERANCE, atol=TOLERANCE):
            raise ConfigError(f"{key}: {name} computes other logits once it is exported to ONNX")
    predict = _attempt(
        lambda: get_runtime(exported.model.runtime).open(
            exported.model.files, num_threads=1, options=exported.model.session_options
        ),
        name=f"the artefact of {name}",
        key=key,
    )
    found_SC = _attempt(lambda: predict(x_S), name=f"the artefact of {name}", key=key)
    _require_logits(found_SC, f"the artefact of {name}", key=key, shape=logits_SC.shape)


def _name_layer(student: nn.Module, spec: InputSpec) -> str:
    example = torch.zeros((2, *spec.sample_shape), dtype=getattr(torch, spec.dtype))
    return f", for its layer {find_untraceable_layer(student, example)}"
