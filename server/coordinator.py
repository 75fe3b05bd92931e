"""One federation from beginning to end, on any grid."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from flwr.serverapp import Grid

from common.config import Config
from common.datasets import Dataset, Splits, load_dataset, split_dataset
from common.files import atomic_path
from common.losses import get_loss
from common.models import InputSpec, measure_input
from common.training import count_bytes, count_parameters, digest_weights, save_weights
from server.checkpoints import FederationState, commit_state
from server.closing import close_run, release_nodes
from server.events import (
    Observer,
    PhaseAdvanced,
    RunFinished,
    TeacherReady,
    Warned,
    timed_phase,
)
from server.labels import LabelStore
from server.publication import Publication, publish_labels, publish_samples
from server.report import write_report
from server.reports import ReplyScore
from server.schemes import get_scheme
from server.scoring import Truth, measure_accuracy, write_predictions
from server.strategy import FedDistill
from server.summarise import TeacherFacts, write_summary
from server.teacher import Teacher, label_samples, make_teacher, measure_teacher_latency

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
class _Prepared:
    """What has to be known before the first round."""

    dataset: Dataset
    splits: Splits
    publication: Publication
    truth: Truth
    teacher: TeacherFacts | None


def run_federation(grid: Grid, run: Run) -> Path:
    """Runs a federation, or what is left of one, and completes its run folder.

    Args:
        grid: The grid that the nodes are on.
        run: Configuration, folder, state to begin from, address of the label service.

    Returns:
        Path of `summary.json`.

    Raises:
        UsageError: Configuration or data are wrong.
        RunError: Nodes did not come, or a round got no answer that could be used.
    """
    begin = time.monotonic() - run.state.wall_seconds
    get_loss(run.config.distill.loss)
    prepared = _prepare(run)

    def commit(state: FederationState, scores: list[ReplyScore]) -> None:
        for score in scores:
            path = run.run_dir / "nodes" / score.node_id / "predictions.npy"
            write_predictions(path, score.classes_S, score.confidences_S, score.fp32_classes_S)
        state.wall_seconds = time.monotonic() - begin
        commit_state(state, run.run_dir)

    strategy = FedDistill(
        run.config,
        prepared.publication,
        prepared.truth,
        state=run.state,
        num_public=len(prepared.splits.public),
        observe=run.observe,
        commit=commit,
    )
    with timed_phase(run.observe, "nodes", run.config.federation.num_nodes):
        strategy.introduce(grid)
    strategy.start(grid)
    close_run(grid, strategy, run.observe)
    run.state.wall_seconds = time.monotonic() - begin
    commit_state(run.state, run.run_dir)
    with timed_phase(run.observe, "report"):
        summary_path = write_summary(
            run.run_dir,
            run.config,
            run.state,
            dataset=prepared.dataset.name,
            evaluation_digest=prepared.publication.evaluation_digest.hex(),
            num_evaluation_samples=len(prepared.truth.evaluation_S),
            teacher=prepared.teacher,
        )
        report_path = write_report(run.run_dir)
    release_nodes(grid, strategy)
    run.observe(RunFinished(str(run.run_dir), str(report_path)))
    return summary_path


def _prepare(run: Run) -> _Prepared:
    config = run.config
    scheme = get_scheme(config.federation.scheme)
    with timed_phase(run.observe, "data"):
        dataset = load_dataset(config.data, seed=config.seed)
        splits = split_dataset(dataset, data=config.data, federation=config.federation, seed=config.seed)
        spec = measure_input(
            dataset.x_train[splits.server_train],
            task=dataset.task,
            layout=dataset.layout,
            scale=dataset.scale,
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
        )
    truth = Truth(dataset.y_test, dataset.y_train[splits.server_validation], dataset.num_classes)
    if not scheme.has_teacher:
        return _Prepared(dataset, splits, publication, truth, None)
    teacher = _open_teacher(run, dataset, splits, spec)
    publication = _publish_soft_labels(run, store, publication, teacher, dataset.x_train[splits.public], spec)
    logits = label_samples(teacher.model, spec, dataset.x_test, num_threads=config.teacher.num_threads)
    predicted = logits.argmax(axis=1)
    _write_array(run.run_dir / "teacher_predictions.npy", predicted.astype("<u2"))
    facts = TeacherFacts(
        model=teacher.name,
        accuracy=measure_accuracy(predicted, dataset.y_test),
        validation_accuracy=teacher.validation_accuracy,
        num_parameters=count_parameters(teacher.model),
        size_bytes=count_bytes(teacher.model),
        digest=digest_weights(teacher.model),
        num_server_samples=len(splits.server_train),
        num_epochs=teacher.num_epochs,
        latency_seconds_batch1=measure_teacher_latency(teacher.model, spec, dataset.x_test),
    )
    run.observe(
        TeacherReady(facts.accuracy, facts.validation_accuracy, facts.num_parameters, facts.size_bytes)
    )
    truth = replace(
        truth, teacher_evaluation_S=predicted, teacher_validation_accuracy=teacher.validation_accuracy
    )
    return _Prepared(dataset, splits, publication, truth, facts)


def _open_teacher(run: Run, dataset: Dataset, splits: Splits, spec: InputSpec) -> Teacher:
    path = run.run_dir / WEIGHTS_FILE
    config = run.config.teacher
    with timed_phase(run.observe, "teacher", config.num_epochs):
        teacher = make_teacher(
            config,
            dataset,
            splits,
            spec,
            seed=run.config.seed,
            on_epoch=lambda done, detail: run.observe(PhaseAdvanced("teacher", done, detail)),
            checkpoint=path if path.exists() else None,
        )
        if not path.exists():
            save_weights(teacher.model, path)
    if teacher.validation_accuracy < config.min_accuracy:
        run.observe(
            Warned(
                f"the teacher reached {teacher.validation_accuracy:.3f} on its validation part, below"
                f" teacher.min_accuracy = {config.min_accuracy:g}: students cannot become better than that;"
                " give it more samples (data.num_server), more epochs or a larger model"
            )
        )
    return teacher


def _publish_soft_labels(
    run: Run,
    store: LabelStore,
    publication: Publication,
    teacher: Teacher,
    public_S: np.ndarray,
    spec: InputSpec,
) -> Publication:
    teacher_digest = digest_weights(teacher.model)
    chunk_bytes = run.config.exchange.chunk_bytes
    public_digest = store.publish_samples(public_S, chunk_bytes=chunk_bytes).hex()
    with timed_phase(run.observe, "labels", len(public_S)):
        labels = store.find_labels(teacher_digest=teacher_digest, public_digest=public_digest)
        if labels is None:
            logits = label_samples(
                teacher.model,
                spec,
                public_S,
                num_threads=run.config.teacher.num_threads,
                on_batch=lambda done: run.observe(PhaseAdvanced("labels", done)),
            )
            labels = store.publish_labels(
                logits, teacher_digest=teacher_digest, public_digest=public_digest, chunk_bytes=chunk_bytes
            )
        return publish_labels(store, run.config, publication, public_S=public_S, labels=labels)


def _write_array(path: Path, array: np.ndarray) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
