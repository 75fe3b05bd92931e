"""What a round leaves behind: its line in `rounds.jsonl`, and what its nodes are known for from then on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from flwr.app import MetricRecord

from fedstill.common.config import FederationConfig
from fedstill.server.figures.scoring import Truth
from fedstill.server.rounds.answers import ReplyScore
from fedstill.server.rounds.resting import record_success
from fedstill.server.run.events import ReplyDropped
from fedstill.server.run.state import FederationState


class Gap(NamedTuple):
    """The teacher's accuracy less the students' mean, on the server's validation part."""

    mean: float | None = None
    """None without a teacher."""
    error: float | None = None
    """Standard error of the mean, from the differences sample by sample; None of fewer than two."""


def sum_up(scores: list[ReplyScore], dropped: list[ReplyDropped]) -> MetricRecord | None:
    """Computes a round's mean figures, None where no answer was good; both lists are sorted by node.

    Answers come in any order, and what is made of them must not depend on it.
    """
    scores.sort(key=lambda score: score.node_id)
    dropped.sort(key=lambda drop: drop.node_id)
    if not scores:
        return None
    accuracy = float(np.mean([score.figures["accuracy"] for score in scores]))
    return MetricRecord({"accuracy_mean": accuracy, "num_replied": len(scores)})


def mark_answers(state: FederationState, scores: Sequence[ReplyScore]) -> None:
    """Makes the students of accepted answers those that their nodes go on from."""
    for score in scores:
        node = state.nodes[score.node_id]
        node.base_round = score.round
        node.num_rounds += 1
        record_success(node)
        node.family = score.figures["family"]


def mark_shared(state: FederationState, scores: Sequence[ReplyScore]) -> None:
    """Remembers whose arrays are part of what the next round fetches, and how much each weighs."""
    for node in state.nodes.values():
        node.shared_round, node.shared_weight = 0, 1.0
    for score in scores:
        if score.contribution is not None:
            node = state.nodes[score.node_id]
            node.shared_round, node.shared_weight = score.round, score.contribution.weight


def describe_round(
    state: FederationState, scores: Sequence[ReplyScore], late: Sequence[ReplyScore], **figures: Any
) -> dict[str, Any]:
    """Writes a round's line.

    Args:
        state: The run's state; its nodes are marked already.
        scores: Answers in time, sorted by node.
        late: Answers to older rounds that were mixed in.
        figures: All that is said of the round as a whole.

    Returns:
        The line.
    """
    return figures | {
        "num_replied": len(scores),
        "num_weighed": len(late),
        "weighed_rounds": {score.node_id: score.round for score in late},
        "nodes": [state.nodes[score.node_id].report for score in scores],
    }


def explain_failure(
    round_number: int,
    dropped: Sequence[ReplyDropped],
    federation: FederationConfig,
    *,
    num_good: int,
    num_sent: int,
) -> str:
    """Says why a round has too few answers, and what to do."""
    reasons = "; ".join(f"{drop.node_id}: {drop.detail}" for drop in dropped[:3])
    return (
        f"round {round_number}: {num_good or 'none'} of {num_sent} nodes gave an answer that can be used"
        + (f" ({reasons})" if reasons else f" within {federation.deadline_seconds:g} s")
        + (f"; federation.min_nodes is {federation.min_nodes}" if federation.min_nodes else "")
        + "; mend the nodes and go on with --resume"
    )


def measure_gap(truth: Truth, scores: Sequence[ReplyScore]) -> Gap:
    """Measures how far students are behind the teacher on the validation part."""
    if truth.teacher_hits_S is None:
        return Gap()
    students_S = np.mean([score.validation_hits_S for score in scores], axis=0)
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
