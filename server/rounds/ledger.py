"""What a round changes: what its nodes are known for from then on, and whether another follows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from fedstill.server.exchange.publication import Publication
from fedstill.server.figures.scoring import Truth
from fedstill.server.rounds.answers import ReplyScore
from fedstill.server.rounds.parts import Federation
from fedstill.server.rounds.resting import record_success
from fedstill.server.rounds.round import Round
from fedstill.server.run.events import RoundClosed
from fedstill.server.run.records import ConclusionRecord
from fedstill.server.run.state import FederationState
from fedstill.server.schemes import Contribution

Conclude = Callable[[int, list[Contribution]], tuple[Publication, ConclusionRecord]]
Commit = Callable[[FederationState, list[ReplyScore]], None]


class Gap(NamedTuple):
    """The teacher's accuracy less the students' mean, on the server's validation part."""

    mean: float | None = None
    """None without a teacher, and in a round without evaluation."""
    error: float | None = None
    """Standard error of the mean, from the differences sample by sample; None of fewer than two."""


def mark_answers(state: FederationState, scores: Sequence[ReplyScore]) -> None:
    """Makes the students of accepted answers those that their nodes go on from."""
    for score in scores:
        node = state.nodes[score.node_id]
        node.base_round = score.round
        node.num_rounds += 1
        record_success(node)
        node.family = score.figures.family


def mark_shared(state: FederationState, scores: Sequence[ReplyScore]) -> None:
    """Remembers whose arrays are part of what the next round fetches, and how much each weighs."""
    for node in state.nodes.values():
        node.shared_round, node.shared_weight = 0, 1.0
    for score in scores:
        if score.contribution is not None:
            node = state.nodes[score.node_id]
            node.shared_round, node.shared_weight = score.round, score.contribution.weight


def measure_gap(truth: Truth, scores: Sequence[ReplyScore]) -> Gap:
    """Measures how far students are behind the teacher on the validation part."""
    evaluated = [score.evaluation for score in scores if score.evaluation is not None]
    if truth.teacher_hits_S is None or not evaluated:
        return Gap()
    students_S = np.mean([found.validation_hits_S for found in evaluated], axis=0)
    behind_S = truth.teacher_hits_S - students_S
    num_samples = len(behind_S)
    error = None if num_samples < 2 else float(np.std(behind_S, ddof=1)) / math.sqrt(num_samples)
    return Gap(float(np.mean(behind_S)), error)


def explain_stop(gap: Gap, *, target_gap: float) -> str:
    """Says why a run stops before its last round; empty where it goes on.

    The validation part may have few samples, and one lucky round on them is no reason to stop.
    """
    if gap.mean is None or gap.error is None or gap.mean + gap.error > target_gap:
        return ""
    return (
        f"students are within {target_gap:g} of the teacher on the validation part,"
        f" by more than a standard error ({gap.error:.3f})"
    )


def close_round(
    federation: Federation,
    closed: Round,
    late: list[ReplyScore],
    *,
    seconds: float,
    conclude: Conclude | None,
    commit: Commit | None,
) -> None:
    """Writes a round down, lets the scheme conclude it, and commits it.

    Args:
        federation: Its parts; state, publication and plans go on from here.
        closed: The round; its answers are sorted and there are enough.
        late: Answers to older rounds that are mixed in.
        seconds: What the round took.
        conclude: Turns what nodes sent into what the next round fetches, and figures on it; None where
            they send nothing.
        commit: Told the state and all scored answers when the round is over.
    """
    state, scores = federation.state, closed.scores
    everyone = sorted([*scores, *late], key=lambda score: score.node_id)
    mark_answers(state, everyone)
    state.round = closed.number
    label_set_id = federation.publication.label_set_id
    record = closed.describe(state, late, label_set_id=label_set_id, seconds=seconds)
    state.rounds.append(record)
    if conclude is not None and federation.wants_upload(closed.number):
        contributions = [score.contribution for score in everyone if score.contribution is not None]
        federation.publication, record.scheme = conclude(closed.number, contributions)
        mark_shared(state, everyone)
    # From the teacher as it is by now: a refined one may have left its students behind.
    gap = measure_gap(federation.truth, scores)
    record.gap, record.gap_error = gap.mean, gap.error
    state.stopped_because = explain_stop(gap, target_gap=federation.config.federation.target_gap)
    rounds_left = 0 if state.stopped_because else federation.last_round - closed.number
    reported = [state.nodes[score.node_id] for score in scores]
    silent = [state.nodes[node_id] for node_id in closed.timed_out]
    federation.planner.close_round(reported, silent, federation.publication, rounds_left=rounds_left)
    if commit is not None:
        commit(state, everyone)
    counts = record.num_sampled, record.num_replied, record.num_dropped
    federation.observe(
        RoundClosed(closed.number, closed.accuracy_mean, *counts, seconds, gap.mean, record.num_rested)
    )
