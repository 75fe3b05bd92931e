"""The loop of a scheme: what nodes send in one round becomes what the next one publishes."""

from __future__ import annotations

from collections.abc import Callable

from fedstill.common.training import save_weights
from fedstill.protos.fedstill.v1 import fleet_pb2
from fedstill.server.exchange.exchange import Exchange
from fedstill.server.exchange.publication import Publication
from fedstill.server.federation.preparation import Run, judge_teacher
from fedstill.server.figures.labels import measure_entropy
from fedstill.server.labels.array_uploads import UPLOADS_DIR, UploadStore
from fedstill.server.rounds.answers import Receive
from fedstill.server.rounds.ledger import Conclude
from fedstill.server.rounds.parts import Federation
from fedstill.server.run.events import LabelsPublished, timed_phase
from fedstill.server.run.records import ConclusionRecord
from fedstill.server.schemes import Contribution
from fedstill.server.schemes.admission import receive_contribution


def make_loop(
    run: Run, exchange: Exchange, federation: Federation, *, oldest_open_round: Callable[[int], int]
) -> tuple[Receive, Conclude]:
    """Makes both halves of the loop; the scheme has one.

    Args:
        run: The run.
        exchange: What it knows and publishes.
        federation: Its parts; a refined teacher changes their truth.
        oldest_open_round: Says which round's uploads are still needed when one is concluded.

    Returns:
        What reads and checks the array that came with an answer, and what turns a round's arrays
        into what the next round fetches, with its figures.
    """
    scheme = federation.scheme
    conclude_scheme = scheme.conclude
    assert conclude_scheme is not None
    uploads = UploadStore(run.run_dir / UPLOADS_DIR)

    def receive(response: fleet_pb2.TaskResponse) -> Contribution:
        num_train_samples = run.state.nodes[response.node_id].num_train_samples
        return receive_contribution(uploads, scheme, exchange, response, num_train_samples=num_train_samples)

    def conclude(
        round_number: int, contributions: list[Contribution]
    ) -> tuple[Publication, ConclusionRecord]:
        exchange.round = round_number
        before = exchange.teacher
        with timed_phase(run.observe, "conclude", round_number=round_number):
            conclude_scheme(exchange, contributions)
        if exchange.teacher is not None and exchange.teacher is not before:
            name = f"teacher-{round_number:05d}.safetensors"
            save_weights(exchange.teacher.model, run.run_dir / name)
            run.state.exchange.teacher_file = name
            federation.truth, _ = judge_teacher(run, exchange, federation.truth)
        _announce_labels(run, exchange)
        exchange.remember(run.state.exchange)
        uploads.forget(before_round=oldest_open_round(round_number))
        return exchange.publication, exchange.notes

    return receive, conclude


def _announce_labels(run: Run, exchange: Exchange) -> None:
    labelled = exchange.publication.label_set_id
    if labelled:
        logits_SC = exchange.store.logits(labelled)
        entropy = measure_entropy(logits_SC, temperature=run.config.distill.temperature)
        run.observe(LabelsPublished(exchange.round, entropy, exchange.notes.ensemble_teacher_kl_nats))
