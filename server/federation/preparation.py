"""What has to be there before the first round: data, teacher, and what nodes fetch."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedstill.common.codecs import get_codec
from fedstill.common.compressors.exporters import EXPORTERS
from fedstill.common.config import Config
from fedstill.common.datasets import load_dataset, split_dataset
from fedstill.common.errors import ConfigError
from fedstill.common.files import atomic_path
from fedstill.common.losses import compares_features, get_loss
from fedstill.common.models import find_family, measure_input
from fedstill.common.models.foreign import load_own_teacher
from fedstill.common.partitioners import PARTITIONERS
from fedstill.common.training import count_bytes, count_parameters, digest_weights, save_weights
from fedstill.server.aggregators import AGGREGATORS, get_aggregator, takes_weights
from fedstill.server.exchange.encodings import AUTO
from fedstill.server.exchange.exchange import Exchange
from fedstill.server.exchange.given_labels import digest_public, raw_public, read_labels
from fedstill.server.exchange.hints import publish_hints
from fedstill.server.exchange.publication import publish_public, publish_samples
from fedstill.server.exchange.teacher import (
    Teacher,
    find_own_teacher,
    label_samples,
    make_teacher,
    measure_teacher_latency,
    seen_by,
    teacher_device,
)
from fedstill.server.exchange.vocabulary import encode_dataset
from fedstill.server.federation.trials import try_own
from fedstill.server.figures.labels import measure_entropy
from fedstill.server.figures.scoring import TeacherFacts, Truth, measure_accuracy
from fedstill.server.labels import LabelStore
from fedstill.server.planner.planner import check_planning
from fedstill.server.run.events import (
    LabelsPublished,
    Observer,
    PhaseAdvanced,
    TeacherReady,
    Warned,
    timed_phase,
)
from fedstill.server.run.records import JudgedTeacher
from fedstill.server.run.state import FederationState
from fedstill.server.schemes import SCHEMES, get_scheme

WEIGHTS_FILE = "teacher.safetensors"


@dataclass(frozen=True)
class Run:
    """Where a federation runs and who watches it."""

    config: Config
    run_dir: Path
    state: FederationState
    label_address: str
    observe: Observer


@dataclass(frozen=True)
class Prepared:
    """A federation that is ready for its next round."""

    exchange: Exchange
    truth: Truth
    teacher: TeacherFacts | None


def check_names(config: Config) -> None:
    """Looks up every name that the configuration takes from a registry, before anything is computed.

    Raises:
        ConfigError: An unknown name, or a scheme that needs one architecture for all.
    """
    scheme = get_scheme(config.federation.scheme)
    get_loss(config.distill.loss)
    if compares_features(config.distill.loss) and config.compress.plan.changes_training:
        raise ConfigError(
            f"distill.loss {config.distill.loss} compares features of one width: take another loss, or"
            " compress.steps=quantise without compress.qat"
        )
    EXPORTERS[config.compress.runtime]
    PARTITIONERS[config.federation.partitioner]
    _check_models(config)
    if config.exchange.codec != AUTO:
        get_codec(config.exchange.codec)
    check_planning(config)
    get_aggregator(config.federation.aggregator)
    if compares_features(config.distill.loss) and not scheme.has_teacher:
        known = ", ".join(name for name, other in SCHEMES.items() if other.has_teacher)
        raise ConfigError(
            f"distill.loss = {config.distill.loss} compares features with a teacher's, and the scheme"
            f" {config.federation.scheme} has no teacher; use one of {known}, or another loss"
        )
    if (
        config.federation.staleness == "weigh"
        and scheme.rows == "public"
        and not takes_weights(config.federation.aggregator)
    ):
        raise ConfigError(
            f"federation.staleness = weigh: the aggregator {config.federation.aggregator} counts every node"
            f" alike; use one of {', '.join(sorted(filter(takes_weights, AGGREGATORS)))}, or staleness = drop"
        )
    if scheme.has_teacher and config.teacher.labels:
        _check_given(config)
    elif scheme.has_teacher:
        teacher_device(config.teacher)
    if scheme.shares_architecture and config.compress.plan.changes_training:
        raise ConfigError(
            f"the scheme {config.federation.scheme} averages {scheme.shares}: take compress.steps=quantise"
            " without compress.qat, or choose another scheme"
        )
    if scheme.shares_architecture and "," in config.student.model:
        raise ConfigError(
            f"the scheme {config.federation.scheme} averages weights position by position and needs one"
            f" architecture; set student.model to one of {config.student.model}, or choose another scheme"
        )


def _check_given(config: Config) -> None:
    hindrance = ""
    if config.distill.num_views > 1:
        hindrance = "distill.num_views needs a teacher that labels each view: set it to 1"
    elif compares_features(config.distill.loss):
        hindrance = f"distill.loss = {config.distill.loss} compares features: take one of logits"
    elif config.federation.scheme == "co-teaching":
        hindrance = "the scheme co-teaching trains the teacher: take teacher"
    if hindrance:
        raise ConfigError(f"teacher.labels brings soft labels without a model, and {hindrance}")


def _check_models(config: Config) -> None:
    own, key = find_own_teacher(config.teacher)
    if own:
        load_own_teacher(own, key=key)
    elif config.teacher.model != "auto":
        find_family(config.teacher.model, role="teacher")
    for name in (part.strip() for part in config.student.model.split(",")):
        if name != "auto":
            find_family(name, role="student")


def prepare(run: Run) -> Prepared:
    """Loads data, trains or loads the teacher, and publishes what nodes fetch.

    On a resumed run everything that is there already is taken from the run folder.

    Args:
        run: The run.

    Returns:
        Exchange, truth and teacher.

    Raises:
        UsageError: Configuration or data are wrong.
    """
    config = run.config
    scheme = get_scheme(config.federation.scheme)
    with timed_phase(run.observe, "data"):
        exchange = _open_exchange(run)
        dataset, splits = exchange.dataset, exchange.splits
        try_own(exchange, holds_teacher=_holds_teacher(run))
        if scheme.uses_public:
            exchange.publication = publish_public(
                exchange.store, config, exchange.publication, dataset.x_train[splits.public]
            )
    truth = Truth(dataset.y_test, dataset.y_train[splits.server_validation], dataset.num_classes)
    facts = None
    if scheme.has_teacher and config.teacher.labels:
        facts = _publish_given_labels(run, exchange)
        run.observe(TeacherReady(None, None, None, None))
    elif scheme.has_teacher:
        exchange.teacher = _open_teacher(run, exchange)
        _publish_soft_labels(run, exchange)
        truth, facts = judge_teacher(run, exchange, truth)
        run.observe(
            TeacherReady(facts.accuracy, facts.validation_accuracy, facts.num_parameters, facts.size_bytes)
        )
    exchange.restore(run.state.exchange)
    return Prepared(exchange, truth, facts)


def _open_exchange(run: Run) -> Exchange:
    config = run.config
    dataset = load_dataset(config.data, seed=config.seed)
    splits = split_dataset(dataset, data=config.data, federation=config.federation, seed=config.seed)
    dataset, encoder = encode_dataset(dataset, splits, config.data)
    spec = measure_input(
        dataset.x_train[splits.server_train],
        task=dataset.task,
        layout=dataset.layout,
        scale=dataset.scale,
        num_ids=encoder.num_ids if encoder else 0,
    )
    store = LabelStore(run.run_dir / "labels")
    publication = publish_samples(
        store,
        config,
        address=run.label_address,
        spec=spec,
        class_names=dataset.class_names,
        feature_names=dataset.feature_names,
        evaluation_S=dataset.x_test,
        validation_S=dataset.x_train[splits.server_validation],
        encoder=encoder,
    )
    return Exchange(config, store, dataset, splits, spec, publication)


def _holds_teacher(run: Run) -> bool:
    # A file from a life that ended before it was committed is trained again: what it took is not known.
    path = run.run_dir / (run.state.exchange.teacher_file or WEIGHTS_FILE)
    return path.exists() and run.state.exchange.teacher_epochs is not None


def _open_teacher(run: Run, exchange: Exchange) -> Teacher:
    path = run.run_dir / (run.state.exchange.teacher_file or WEIGHTS_FILE)
    config = run.config.teacher
    num_epochs = run.state.exchange.teacher_epochs if _holds_teacher(run) else None
    with timed_phase(run.observe, "teacher", config.num_epochs):
        teacher = make_teacher(
            config,
            exchange.dataset,
            exchange.splits,
            exchange.spec,
            seed=run.config.seed,
            on_epoch=lambda done, detail: run.observe(PhaseAdvanced("teacher", done, detail)),
            checkpoint=path if num_epochs is not None else None,
        )
        if num_epochs is not None:
            teacher = replace(teacher, num_epochs=num_epochs)
        else:
            save_weights(teacher.model, path)
            run.state.exchange.teacher_epochs = teacher.num_epochs
    if teacher.validation_accuracy < config.min_accuracy:
        run.observe(
            Warned(
                f"the teacher reached {teacher.validation_accuracy:.3f} on its validation part, below"
                f" teacher.min_accuracy = {config.min_accuracy:g}: students cannot become better than that;"
                " give it more samples (data.num_server), more epochs or a larger model"
            )
        )
    return teacher


def _publish_soft_labels(run: Run, exchange: Exchange) -> None:
    teacher = exchange.teacher
    assert teacher is not None
    public_S = exchange.teacher_rows
    origin = digest_weights(teacher.model)
    with timed_phase(run.observe, "labels", len(public_S)):
        known = exchange.find_labels(origin=origin)
        if known is not None:
            logits = exchange.store.logits(known.id)
        else:
            logits = label_samples(
                teacher.model,
                exchange.spec,
                public_S,
                num_threads=run.config.teacher.num_threads,
                device=teacher_device(run.config.teacher),
                on_batch=lambda done: run.observe(PhaseAdvanced("labels", done)),
            )
        exchange.publish_labels(logits, origin=origin)
        publish_hints(exchange, teacher.model)
    entropy = measure_entropy(logits, temperature=run.config.distill.temperature)
    run.observe(LabelsPublished(0, entropy))


def _publish_given_labels(run: Run, exchange: Exchange) -> TeacherFacts:
    path, record = Path(os.path.expandvars(run.config.teacher.labels)).expanduser(), run.state.exchange
    with timed_phase(run.observe, "labels", len(exchange.splits.public)):
        # A resumed run needs the file no more.
        known = exchange.find_labels(origin=record.given_origin) if record.given_origin else None
        if known is not None:
            logits_SC = exchange.store.logits(known.id)
        else:
            samples_S = raw_public(exchange.dataset, exchange.splits)
            given = read_labels(
                path,
                digest=digest_public(samples_S),
                num_samples=len(samples_S),
                num_classes=exchange.dataset.num_classes,
            )
            logits_SC, record.given_origin = given.logits_SC, given.origin
        exchange.given_origin = record.given_origin
        exchange.publish_labels(logits_SC, origin=record.given_origin)
    entropy = measure_entropy(logits_SC, temperature=run.config.distill.temperature)
    run.observe(LabelsPublished(0, entropy))
    return TeacherFacts(
        model=path.name,
        accuracy=None,
        initial_accuracy=None,
        validation_accuracy=None,
        num_parameters=None,
        size_bytes=None,
        digest=record.given_origin,
        num_server_samples=0,
        num_epochs=0,
        latency_seconds_batch1=None,
    )


def judge_teacher(run: Run, exchange: Exchange, truth: Truth) -> tuple[Truth, TeacherFacts]:
    """Runs the teacher over the evaluation set and keeps its predictions in the run folder.

    A resumed run does not repeat what the run folder holds already of the very same teacher.

    Args:
        run: The run.
        exchange: The run's exchange; it holds the teacher.
        truth: What is known so far.

    Returns:
        The truth with the teacher's predictions, and the teacher's figures.
    """
    teacher, dataset = exchange.teacher, exchange.dataset
    assert teacher is not None
    digest, path = digest_weights(teacher.model), run.run_dir / "teacher_predictions.npy"
    judged = run.state.exchange.teacher_judged
    if judged is not None and (judged.teacher, judged.predictions) == (digest, _digest_file(path)):
        predicted = np.load(path, allow_pickle=False).astype(np.int64)
    else:
        predicted = label_samples(
            teacher.model,
            exchange.spec,
            seen_by(teacher.model, dataset).x_test,
            num_threads=run.config.teacher.num_threads,
            device=teacher_device(run.config.teacher),
        ).argmax(axis=1)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, predicted.astype("<u2"), allow_pickle=False)
        latency = measure_teacher_latency(teacher.model, exchange.spec, dataset.x_test)
        judged = JudgedTeacher(teacher=digest, predictions=_digest_file(path), latency_seconds_batch1=latency)
        run.state.exchange.teacher_judged = judged
    accuracy = measure_accuracy(predicted, dataset.y_test)
    if run.state.exchange.teacher_initial_accuracy is None:
        run.state.exchange.teacher_initial_accuracy = accuracy
    facts = TeacherFacts(
        model=teacher.name,
        accuracy=accuracy,
        initial_accuracy=run.state.exchange.teacher_initial_accuracy,
        validation_accuracy=teacher.validation_accuracy,
        num_parameters=count_parameters(teacher.model),
        size_bytes=count_bytes(teacher.model),
        digest=digest,
        num_server_samples=len(exchange.splits.server_train),
        num_epochs=teacher.num_epochs,
        latency_seconds_batch1=judged.latency_seconds_batch1,
    )
    return (
        replace(truth, teacher_evaluation_S=predicted, teacher_hits_S=teacher.validation_hits_S),
        facts,
    )


def _digest_file(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
