"""FedDistill: federated distillation as a Flower `Strategy`.

In a ServerApp of your own:

    strategy = FedDistill(config, publication, truth, state=FederationState(run_id="trial"))
    strategy.start(grid)
    strategy.state.nodes["node-0000"].report["accuracy"]
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedstill.common.config import Config
from fedstill.common.errors import ExchangeError, RunError
from fedstill.common.training import steps_per_epoch
from fedstill.common.wire import pack
from fedstill.protos.fedstill.v1 import fleet_pb2
from fedstill.server.exchange.publication import Publication
from fedstill.server.figures.scoring import Truth
from fedstill.server.fleet.fleet import Fleet
from fedstill.server.fleet.mailbox import UnusedReplyError, collect, push, read_answer
from fedstill.server.planner import plan_training
from fedstill.server.planner.planner import Planner
from fedstill.server.rounds.answers import ReplyScore, account_traffic, announce_reply, score_reply
from fedstill.server.rounds.introduction import introduce_fleet
from fedstill.server.rounds.ledger import (
    describe_round,
    explain_failure,
    explain_stop,
    mark_answers,
    mark_shared,
    measure_gap,
    sum_up,
)
from fedstill.server.rounds.resting import record_failures
from fedstill.server.rounds.sampling import await_fleet, sample_nodes
from fedstill.server.rounds.staleness import WEIGH, LateAnswers
from fedstill.server.run.events import (
    Event,
    PhaseAdvanced,
    PhaseEnded,
    PhaseStarted,
    ReplyDropped,
    RoundClosed,
    Warned,
)
from fedstill.server.run.state import FederationState
from fedstill.server.schemes import Contribution, get_scheme

LOGGER = logging.getLogger("fedstill")
# A task's time runs from when it was made, a round's from a little earlier or later.
EXPIRY_SECONDS = 1.0
Receive = Callable[[fleet_pb2.TaskResponse], Contribution]
Conclude = Callable[[int, list[Contribution]], tuple[Publication, dict[str, Any]]]


def _log(event: Event) -> None:
    LOGGER.log(logging.WARNING if isinstance(event, ReplyDropped | Warned) else logging.DEBUG, "%s", event)


class FedDistill(Strategy):
    """Sends tasks, closes rounds at quorum or deadline, and commits each."""

    def __init__(
        self,
        config: Config,
        publication: Publication,
        truth: Truth,
        *,
        state: FederationState,
        num_public: int,
        observe: Callable[[Event], None] = _log,
        stage: Callable[[ReplyScore], None] | None = None,
        commit: Callable[[FederationState, list[ReplyScore]], None] | None = None,
        planner: Planner | None = None,
    ) -> None:
        """Prepares a federation; nothing is sent yet.

        Args:
            config: The run's configuration.
            publication: What nodes fetch.
            truth: Labels and teacher predictions that nodes' answers are compared with.
            state: Where to begin: a fresh state, or the one to resume from.
            num_public: Public samples; they set the steps of a round in every scheme.
            observe: Told of everything that happens.
            stage: Called with each good answer as it comes; only then are its predictions there.
            commit: Called with the state and the round's scored answers when a round is over.
            planner: Plans students and codecs; None goes by the configuration alone.
        """
        self.config = config
        self.publication = publication
        self.truth = truth
        self.state = state
        self.fleet = Fleet(run_id=state.run_id, on_drop=self._drop)
        self.num_steps = config.distill.num_epochs * steps_per_epoch(num_public, config.distill.batch_size)
        self.planner = planner or Planner(config, publication.spec, observe)
        self._observe = observe
        self._stage, self._commit = stage, commit
        self._receive: Receive | None = None
        self._conclude: Conclude | None = None
        self.scheme = get_scheme(config.federation.scheme)
        self._last_round = self.scheme.last_round(config.federation.num_rounds)
        self._scores: list[ReplyScore] = []
        self._dropped: list[ReplyDropped] = []
        self._num_wanted = 0
        self._num_rested: dict[str, int] = {}
        self._timed_out: list[str] = []
        self._weighs_late = config.federation.staleness == WEIGH
        self._node_deadline = 0.0 if self._weighs_late else config.federation.deadline_seconds
        self._late = LateAnswers(exponent=config.federation.staleness_exponent)

    def close_the_loop(self, receive: Receive, conclude: Conclude) -> None:
        """Makes nodes send what they learned, and every round publish something new.

        Args:
            receive: Reads and checks the array that came with an answer.
            conclude: Turns a round's arrays into what the next round fetches, and notes on it.
        """
        self._receive, self._conclude = receive, conclude
        if self._weighs_late:
            self.fleet.keep_late = self._late.keep

    def oldest_open_round(self, round_number: int) -> int:
        """Says which round's answers are the oldest that may still be used when a round is concluded."""
        pending = self.fleet.roster.pending_rounds if self._weighs_late else []
        return self._late.note_round(round_number, self.publication, pending=pending)

    def introduce(self, grid: Grid) -> None:
        """Waits until every node of the federation has said its name; see `introduce_fleet`."""
        introduce_fleet(
            grid,
            self.fleet,
            self.state,
            self.planner,
            federation=self.config.federation,
            expected=self.publication.input(),
            observe=self._observe,
        )

    def summary(self) -> None:
        """Logs what this strategy is set to."""
        LOGGER.info("FedDistill: %d steps a round, %s", self.num_steps, self.config.federation)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Writes the tasks of one round; `arrays` and `config` stay unused, labels travel beside Flower."""
        if not self.fleet.roster.flower_ids:
            self.introduce(grid)
        await_fleet(
            grid, self.fleet, self.state, self.config, round_number=server_round, observe=self._observe
        )
        sample = sample_nodes(self.fleet, self.state, self.config, round_number=server_round)
        self._num_wanted, self._num_rested = sample.num_wanted, sample.num_rested
        self.fleet.open_round(server_round)
        return [
            Message(
                pack(self._task(node_id, server_round)),
                self.fleet.roster.flower_ids[node_id],
                "train",
                # A task that still waits at the deadline is not worth beginning.
                ttl=self._node_deadline or None,
                group_id=str(server_round),
            )
            for node_id in sample.node_ids
        ]

    def _task(self, node_id: str, round_number: int) -> fleet_pb2.TaskRequest:
        node = self.state.nodes[node_id]
        return fleet_pb2.TaskRequest(
            run_id=self.state.run_id,
            round=round_number,
            base_round=node.base_round,
            shared_round=node.shared_round,
            shared_weight=node.shared_weight,
            labels=self.planner.publication_of(node, self.publication).source(),
            plan=self.planner.plan(node),
            hyperparameters=plan_training(self.config, num_steps=self.num_steps),
            deadline_seconds=self._node_deadline,
            seed=self.config.seed,
            input=self.publication.input(),
            wants_upload=self._wants_upload(round_number),
            upload_codec=self.planner.upload_codec(node, self.publication),
            upload_nonce=self.fleet.nonce,
            starts_anew=self.planner.starts_anew(node),
            wants_latency=node.plan is not None,
        )

    def _wants_upload(self, round_number: int) -> bool:
        return self._conclude is not None and round_number < self._last_round

    def learns_in(self, round_number: int) -> bool:
        """Says whether nodes learn in a round, or only take over what the last one made."""
        return not self.scheme.takes_over or self._wants_upload(round_number)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Scores the answers, sorted by node; what is wrong or of another round is dropped and counted.

        Returns:
            No arrays, since students stay on their nodes, and the round's mean figures;
            None for both where no answer was good.
        """
        self._scores, self._dropped = [], []
        for reply in replies:
            self._judge(reply, server_round, reply.metadata.src_node_id)
        return None, sum_up(self._scores, self._dropped)

    def _judge(self, reply: Message, round_number: int, flower_id: int) -> None:
        """Takes one answer, while the other nodes still work; that of a lost node comes from Flower."""
        node_id = self.fleet.roster.name(flower_id)
        try:
            run_id = self.state.run_id
            response = read_answer(reply, run_id=run_id, round_number=round_number, node_id=node_id)
            self._scores.append(self._score(response, self.publication))
        except (UnusedReplyError, ExchangeError) as error:
            self._drop(ReplyDropped(round_number, node_id, getattr(error, "kind", "refused"), str(error)))

    def _score(self, response: fleet_pb2.TaskResponse, publication: Publication) -> ReplyScore:
        node = self.state.nodes[response.node_id]
        score = score_reply(response, self.truth, self._task(response.node_id, response.round))
        if self._receive is not None and self._wants_upload(response.round):
            score = replace(score, contribution=self._receive(response))
        node.host = response.host
        account_traffic(
            node,
            score,
            self.planner.publication_of(node, publication),
            learned=self.learns_in(response.round),
        )
        if self._stage is not None:
            self._stage(score)
            score = score.without_predictions()
        self._observe(announce_reply(score, node))
        return score

    def _drop(self, event: ReplyDropped) -> None:
        if event.reason == "late":
            self.state.num_late += 1
        else:
            self._dropped.append(event)
        self._observe(event)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sends nothing: every task is evaluated where it was trained, in the same answer."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Has nothing to aggregate; see `configure_evaluate`."""
        return None

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord | None = None,
        num_rounds: int | None = None,
        timeout: float | None = None,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Runs rounds until students are near enough to the teacher or the last round is over.

        Args:
            grid: The grid that the nodes are on.
            initial_arrays: Unused; students begin on their nodes.
            num_rounds: Last round; None goes by the configuration.
            timeout: Deadline of a round, seconds; None goes by `federation.deadline_seconds`.
            train_config: Unused.
            evaluate_config: Unused.
            evaluate_fn: Unused.

        Returns:
            Flower's result, with the figures of each round.

        Raises:
            RunError: Nodes did not come, or a round got no answer that could be used.
        """
        self.summary()
        if not self.fleet.roster.flower_ids:
            self.introduce(grid)
        result = Result()
        if num_rounds is not None:
            self._last_round = num_rounds
        while self.state.round < self._last_round and not self.state.stopped_because:
            metrics = self._run_round(grid, self.state.round + 1, timeout=timeout)
            result.train_metrics_clientapp[self.state.round] = metrics
        self.fleet.keep_late = None
        self._late.drop_all(self._drop)
        self.state.stopped_because = self.state.stopped_because or "the last round is over"
        return result

    def _run_round(self, grid: Grid, round_number: int, *, timeout: float | None) -> MetricRecord:
        federation = self.config.federation
        begin = time.monotonic()
        num_late = self.state.num_late
        messages = list(self.configure_train(round_number, ArrayRecord(), ConfigRecord(), grid))
        self.oldest_open_round(round_number)
        num_needed = max(math.ceil(round(federation.quorum * self._num_wanted, 6)), federation.min_nodes)
        self._observe(PhaseStarted("round", len(messages), round_number, num_needed))
        sent = push(grid, self.fleet.roster.mailbox, messages, round_number=round_number)
        self._scores, self._dropped = [], []
        answers: list[bool] = []

        def keep(flower_id: int, reply: Message) -> None:
            answers.append(not reply.has_error())
            self._judge(reply, round_number, flower_id)
            self._observe(PhaseAdvanced("round", len(answers)))

        num_unanswered = collect(
            grid,
            self.fleet.roster.mailbox,
            sent,
            num_needed=num_needed,
            deadline_seconds=federation.deadline_seconds if timeout is None else timeout,
            on_reply=keep,
            on_late=self.fleet.drop_late,
            meanwhile=lambda: self.fleet.look_for_newcomers(grid),
        )
        metrics = sum_up(self._scores, self._dropped)
        if metrics is None or len(self._scores) < federation.min_nodes:
            counts = {"num_good": len(self._scores), "num_sent": len(sent)}
            raise RunError(explain_failure(round_number, self._dropped, federation, **counts))
        seconds = time.monotonic() - begin
        is_over = bool(self._node_deadline) and seconds > self._node_deadline - EXPIRY_SECONDS
        unanswered = "timeout" if is_over else "lost"  # Flower says alike that a task expired and was lost
        failures = {
            drop.node_id: unanswered if drop.reason == "unanswered" else drop.reason for drop in self._dropped
        }
        if not self._weighs_late and sum(answers) < num_needed:
            # Only at the deadline: who is slower than a quorum has done nothing wrong.
            failures |= dict.fromkeys(self.fleet.roster.list_silent(round_number), "timeout")
        self._timed_out = sorted(node_id for node_id, why in failures.items() if why == "timeout")
        rest_after = federation.rest_after
        record_failures(self.state.nodes, failures, round_number=round_number, rest_after=rest_after)
        self._close_round(
            round_number,
            num_sampled=len(sent),
            num_dropped=len(self._dropped) + num_unanswered,
            num_late=self.state.num_late - num_late,
            seconds=time.monotonic() - begin,
        )
        self._observe(PhaseEnded("round", time.monotonic() - begin, round_number))
        return metrics

    def _close_round(
        self, round_number: int, *, num_sampled: int, num_dropped: int, num_late: int, seconds: float
    ) -> None:
        scores = self._scores
        late = self._late.take(round_number, self.state, scores, score=self._score, drop=self._drop)
        accuracy = float(np.mean([score.figures["accuracy"] for score in scores]))
        everyone = sorted([*scores, *late], key=lambda score: score.node_id)
        mark_answers(self.state, everyone)
        self.state.round = round_number
        self.state.rounds.append(
            describe_round(
                self.state,
                scores,
                late,
                round=round_number,
                accuracy_mean=accuracy,
                num_sampled=num_sampled,
                num_dropped=num_dropped,
                num_late=num_late,
                num_rested=self._num_rested,
                label_set_id=self.publication.label_set_id or None,
                seconds=seconds,
            )
        )
        if self._conclude is not None and self._wants_upload(round_number):
            contributions = [score.contribution for score in everyone if score.contribution is not None]
            self.publication, self.state.rounds[-1]["scheme"] = self._conclude(round_number, contributions)
            mark_shared(self.state, everyone)
        # From the teacher as it is by now: a refined one may have left its students behind.
        gap = measure_gap(self.truth, scores)
        self.state.rounds[-1] |= {"gap": gap.mean, "gap_error": gap.error}
        self.state.stopped_because = explain_stop(gap, target_gap=self.config.federation.target_gap)
        rounds_left = 0 if self.state.stopped_because else self._last_round - round_number
        reported = [self.state.nodes[score.node_id] for score in scores]
        silent = [self.state.nodes[node_id] for node_id in self._timed_out]
        self.planner.close_round(reported, silent, self.publication, rounds_left=rounds_left)
        if self._commit is not None:
            self._commit(self.state, everyone)
        counts = num_sampled, len(scores), num_dropped
        self._observe(RoundClosed(round_number, accuracy, *counts, seconds, gap.mean, self._num_rested))
