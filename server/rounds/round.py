"""One round while it is open: who was asked, who answered, and what became of the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Message, MetricRecord
from flwr.serverapp import Grid

from fedstill.common.config import FederationConfig
from fedstill.common.errors import RunError
from fedstill.server.fleet.mailbox import collect, push
from fedstill.server.rounds.answers import ReplyScore
from fedstill.server.rounds.parts import Federation
from fedstill.server.rounds.sampling import Sample
from fedstill.server.run.events import PhaseAdvanced, PhaseStarted, ReplyDropped
from fedstill.server.run.records import RoundRecord
from fedstill.server.run.state import FederationState

# A task's time runs from when it was made, a round's from a little earlier or later.
EXPIRY_SECONDS = 1.0


@dataclass
class Round:
    """What is known of one round; it is forgotten once it is closed."""

    number: int
    sample: Sample = field(default_factory=lambda: Sample([], 0, {}))
    num_late_before: int = 0
    """Late answers of the run until it began."""
    num_sent: int = 0
    num_good: int = 0
    """Answers that were no errors, whatever they said."""
    num_answers: int = 0
    num_unanswered: int = 0
    scores: list[ReplyScore] = field(default_factory=list)
    dropped: list[ReplyDropped] = field(default_factory=list)
    timed_out: list[str] = field(default_factory=list)
    """Nodes that had not answered when the time was over."""
    seconds: float = 0.0

    def num_needed(self, federation: FederationConfig) -> int:
        """Counts the answers that close the round before its deadline."""
        quorum = math.ceil(round(federation.quorum * self.sample.num_wanted, 6))
        return max(quorum, federation.min_nodes)

    def sort(self) -> None:
        """Puts answers in their nodes' order: what is made of them must not depend on when they came."""
        self.scores.sort(key=lambda score: score.node_id)
        self.dropped.sort(key=lambda drop: drop.node_id)

    @property
    def accuracy_mean(self) -> float | None:
        """Mean accuracy of the good answers; None in a round without evaluation."""
        known = [score.figures.accuracy for score in self.scores if score.figures.accuracy is not None]
        return float(np.mean(known)) if known else None

    def metrics(self) -> MetricRecord | None:
        """Gives the mean figures as Flower has them; None where no answer was good."""
        if not self.scores:
            return None
        mean = self.accuracy_mean
        known: dict[str, int | float] = {} if mean is None else {"accuracy_mean": mean}
        return MetricRecord({**known, "num_replied": len(self.scores)})

    def check(self, federation: FederationConfig) -> None:
        """Refuses a round with too few good answers.

        Raises:
            RunError: It says why, and what to do.
        """
        if self.scores and len(self.scores) >= federation.min_nodes:
            return
        reasons = "; ".join(f"{drop.node_id}: {drop.detail}" for drop in self.dropped[:3])
        raise RunError(
            f"round {self.number}: {len(self.scores) or 'none'} of {self.num_sent} nodes gave an answer that"
            " can be used"
            + (f" ({reasons})" if reasons else f" within {federation.deadline_seconds:g} s")
            + (f"; federation.min_nodes is {federation.min_nodes}" if federation.min_nodes else "")
            + "; mend the nodes and go on with --resume"
        )

    def list_failures(self, *, node_deadline: float, silent: list[str]) -> dict[str, str]:
        """Says of each node that gave nothing why, and remembers those whose time was over.

        Args:
            node_deadline: Seconds that a node had; 0 is unlimited.
            silent: Nodes that still owe an answer and should have given it.

        Returns:
            Reason by node.
        """
        # Flower says alike that a task expired and that it was lost.
        is_over = bool(node_deadline) and self.seconds > node_deadline - EXPIRY_SECONDS
        unanswered = "timeout" if is_over else "lost"
        failures = {
            drop.node_id: unanswered if drop.reason == "unanswered" else drop.reason for drop in self.dropped
        }
        failures |= dict.fromkeys(silent, "timeout")
        self.timed_out = sorted(node_id for node_id, why in failures.items() if why == "timeout")
        return failures

    def describe(
        self, state: FederationState, late: list[ReplyScore], *, label_set_id: str, seconds: float
    ) -> RoundRecord:
        """Writes the round's line.

        Args:
            state: The run's state; its nodes are marked and accounted for.
            late: Answers to older rounds that were mixed in.
            label_set_id: What its nodes learned from; empty where there were no labels.
            seconds: What it took.
        """
        reports = [state.nodes[score.node_id].report for score in self.scores]
        return RoundRecord(
            round=self.number,
            accuracy_mean=self.accuracy_mean,
            num_sampled=self.num_sent,
            num_replied=len(self.scores),
            num_dropped=len(self.dropped) + self.num_unanswered,
            num_late=state.num_late - self.num_late_before,
            num_weighed=len(late),
            weighed_rounds={score.node_id: score.round for score in late},
            num_rested=self.sample.num_rested,
            label_set_id=label_set_id or None,
            seconds=seconds,
            nodes=[report for report in reports if report is not None],
        )


def gather_answers(
    grid: Grid,
    federation: Federation,
    current: Round,
    messages: Sequence[Message],
    *,
    judge: Callable[[Message, int], None],
    deadline_seconds: float,
) -> None:
    """Sends a round's tasks and waits until enough nodes answered or its time is over.

    Args:
        grid: The grid that the nodes are on.
        federation: Its parts.
        current: The round; who answered is counted here.
        messages: Its tasks.
        judge: Told each answer and Flower's id of its node, as it comes.
        deadline_seconds: Longest wait; 0 is for ever.
    """
    fleet, num_needed = federation.fleet, current.num_needed(federation.config.federation)
    federation.observe(PhaseStarted("round", len(messages), current.number, num_needed))
    sent = push(grid, fleet.roster.mailbox, messages, round_number=current.number)
    current.num_sent = len(sent)

    def keep(flower_id: int, reply: Message) -> None:
        current.num_answers += 1
        current.num_good += not reply.has_error()
        judge(reply, flower_id)
        federation.observe(PhaseAdvanced("round", current.num_answers))

    current.num_unanswered = collect(
        grid,
        fleet.roster.mailbox,
        sent,
        num_needed=num_needed,
        deadline_seconds=deadline_seconds,
        on_reply=keep,
        on_late=fleet.drop_late,
        meanwhile=lambda: fleet.look_for_newcomers(grid),
    )
