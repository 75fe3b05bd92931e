"""One federation from beginning to end, on any grid."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid

from fedstill.common.training import save_weights
from fedstill.protos.fedstill.v1 import fleet_pb2
from fedstill.server.analysis.flips import write_flips
from fedstill.server.analysis.resemblance import compare_models
from fedstill.server.exchange.exchange import Exchange
from fedstill.server.exchange.publication import Publication
from fedstill.server.federation.closing import close_run, release_nodes
from fedstill.server.federation.preparation import Prepared, Run, check_names, judge_teacher, prepare
from fedstill.server.federation.summarise import write_summary
from fedstill.server.figures.labels import measure_entropy
from fedstill.server.fleet.guard import Guard
from fedstill.server.labels import UploadStore
from fedstill.server.planner.planner import make_planner
from fedstill.server.report import write_report
from fedstill.server.rounds.answers import ReplyScore
from fedstill.server.rounds.predictions import PredictionWriter
from fedstill.server.rounds.strategy import FedDistill
from fedstill.server.run.events import LabelsPublished, RunFinished, timed_phase
from fedstill.server.run.state import FederationState, commit_state
from fedstill.server.schemes import Contribution, get_scheme
from fedstill.server.schemes.admission import receive_contribution

__all__ = ["Run", "run_federation"]


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
    check_names(run.config)
    prepared = prepare(run)

    with PredictionWriter(run.run_dir) as predictions:
        strategy = _run_rounds(grid, run, prepared, predictions, begin=begin)
    with timed_phase(run.observe, "report"):
        summary_path = _sum_up(run, prepared)
        report_path = write_report(run.run_dir)
    release_nodes(grid, strategy)
    run.observe(RunFinished(str(run.run_dir), str(report_path)))
    return summary_path


def _run_rounds(
    grid: Grid, run: Run, prepared: Prepared, predictions: PredictionWriter, *, begin: float
) -> FedDistill:
    """Runs what is left of rounds and closing, committing each."""

    def commit(state: FederationState, scores: list[ReplyScore]) -> None:
        predictions.commit(scores)
        state.wall_seconds = time.monotonic() - begin
        commit_state(state, run.run_dir)

    strategy = FedDistill(
        run.config,
        prepared.exchange.publication,
        prepared.truth,
        state=run.state,
        num_public=len(prepared.exchange.splits.public),
        observe=run.observe,
        stage=predictions.stage,
        commit=commit,
        planner=make_planner(run.config, prepared.exchange, run.observe),
    )
    strategy.fleet.roster.guard = Guard(run.config, run.run_dir, run.state.run_id)
    commit(run.state, [])  # from here on the teacher is there: a resumed run trains none
    if get_scheme(run.config.federation.scheme).conclude is not None:
        _close_the_loop(run, prepared, strategy)
    with timed_phase(run.observe, "nodes", run.config.federation.num_nodes):
        strategy.introduce(grid)
    strategy.start(grid)
    if not run.state.is_closed:
        close_run(grid, strategy, run.observe)
        run.state.is_closed = True
        commit(run.state, [])
    return strategy


def _close_the_loop(run: Run, prepared: Prepared, strategy: FedDistill) -> None:
    """Lets what nodes send in one round become what the next one publishes."""
    exchange = prepared.exchange
    scheme = get_scheme(run.config.federation.scheme)
    uploads = UploadStore(run.run_dir / "uploads")
    assert scheme.conclude is not None
    conclude_scheme = scheme.conclude

    def receive(response: fleet_pb2.TaskResponse) -> Contribution:
        num_train_samples = run.state.nodes[response.node_id].num_train_samples
        return receive_contribution(uploads, scheme, exchange, response, num_train_samples=num_train_samples)

    def conclude(round_number: int, contributions: list[Contribution]) -> tuple[Publication, dict[str, Any]]:
        exchange.round = round_number
        before = exchange.teacher
        with timed_phase(run.observe, "conclude", round_number=round_number):
            conclude_scheme(exchange, contributions)
        if exchange.teacher is not None and exchange.teacher is not before:
            name = f"teacher-{round_number:05d}.safetensors"
            save_weights(exchange.teacher.model, run.run_dir / name)
            run.state.exchange["teacher_file"] = name
            strategy.truth, _ = judge_teacher(run, exchange, strategy.truth)
        _announce_labels(run, exchange)
        run.state.exchange |= exchange.remember()
        uploads.forget(before_round=strategy.oldest_open_round(round_number))
        return exchange.publication, exchange.notes

    strategy.close_the_loop(receive, conclude)


def _announce_labels(run: Run, exchange: Exchange) -> None:
    labelled = exchange.publication.label_set_id
    if labelled:
        logits_SC = exchange.store.logits(labelled)
        entropy = measure_entropy(logits_SC, temperature=run.config.distill.temperature)
        divergence = exchange.notes.get("ensemble_teacher_kl_nats")
        run.observe(LabelsPublished(exchange.round, entropy, divergence))


def _sum_up(run: Run, prepared: Prepared) -> Path:
    facts = prepared.teacher
    if facts is not None and "teacher_file" in run.state.exchange:
        _, facts = judge_teacher(run, prepared.exchange, prepared.truth)
    write_flips(run.run_dir, run.config, run.state, prepared.exchange)
    return write_summary(
        run.run_dir,
        run.config,
        run.state,
        dataset=prepared.exchange.dataset.name,
        evaluation_digest=prepared.exchange.publication.evaluation_digest.hex(),
        num_evaluation_samples=len(prepared.truth.evaluation_S),
        teacher=facts,
        quality=compare_models(run.run_dir, run.config, run.state, prepared.exchange, observe=run.observe),
    )
