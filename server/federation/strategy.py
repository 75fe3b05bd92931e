"""FedDistill: federated distillation as a Flower `Strategy`.

In a ServerApp of your own:

    strategy = FedDistill.prepare(config)  # trains the teacher, publishes and serves its labels
    strategy.start(grid)
    strategy.state.nodes["node-0000"].report.accuracy
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedstill.common.config import Config
from fedstill.common.errors import ExchangeError
from fedstill.common.training import steps_per_epoch
from fedstill.common.wire import pack
from fedstill.protos.fedstill.v1 import fleet_pb2
from fedstill.server.exchange.publication import Publication
from fedstill.server.federation.ending import end_run
from fedstill.server.federation.loop import make_loop
from fedstill.server.federation.preparation import Run, check_names, prepare
from fedstill.server.federation.serving import announce_run, serve_run
from fedstill.server.figures.scoring import Truth
from fedstill.server.fleet.fleet import Fleet
from fedstill.server.fleet.guard import Guard
from fedstill.server.fleet.mailbox import UnusedReplyError, read_answer
from fedstill.server.planner.planner import Planner, make_planner
from fedstill.server.rounds.answers import Receive, ReplyScore, accept_answer, announce_reply
from fedstill.server.rounds.introduction import introduce_fleet
from fedstill.server.rounds.ledger import Commit, Conclude, close_round
from fedstill.server.rounds.parts import Federation
from fedstill.server.rounds.predictions import PredictionWriter
from fedstill.server.rounds.resting import record_failures
from fedstill.server.rounds.round import Round, gather_answers
from fedstill.server.rounds.sampling import await_fleet, sample_nodes
from fedstill.server.rounds.staleness import WEIGH, LateAnswers
from fedstill.server.run.events import (
    Event,
    PhaseEnded,
    ReplyDropped,
    timed_phase,
)
from fedstill.server.run.folder import open_run
from fedstill.server.run.logs import LOGGER, log_event
from fedstill.server.run.state import FederationState, commit_state
from fedstill.server.schemes import get_scheme


class FedDistill(Strategy):
    """Sends tasks, closes rounds at quorum or deadline, and commits each.

    `prepare` makes one from a configuration, complete; the constructor takes the parts.
    """

    def __init__(
        self,
        config: Config,
        publication: Publication,
        truth: Truth,
        *,
        state: FederationState,
        num_public: int,
        observe: Callable[[Event], None] = log_event,
        stage: Callable[[ReplyScore], None] | None = None,
        commit: Commit | None = None,
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
        num_steps = config.distill.num_epochs * steps_per_epoch(num_public, config.distill.batch_size)
        self.federation = Federation(
            config=config,
            state=state,
            fleet=Fleet(run_id=state.run_id, on_drop=self._drop),
            planner=planner or Planner(config, publication.spec, observe),
            publication=publication,
            truth=truth,
            num_steps=num_steps,
            last_round=get_scheme(config.federation.scheme).last_round(config.federation.num_rounds),
            observe=observe,
        )
        self._stage, self._commit = stage, commit
        self._resources = ExitStack()
        self._end: Callable[[Grid], None] | None = None
        self._receive: Receive | None = None
        self._conclude: Conclude | None = None
        self._round = Round(state.round)
        self._weighs_late = config.federation.staleness == WEIGH
        self._node_deadline = 0.0 if self._weighs_late else config.federation.deadline_seconds
        self._late = LateAnswers(exponent=config.federation.staleness_exponent)

    @classmethod
    def prepare(
        cls,
        config: Config,
        *,
        run_dir: Path | None = None,
        resume: bool = False,
        observe: Callable[[Event], None] = log_event,
    ) -> FedDistill:
        """Makes a federation that is ready to start: teacher trained, labels published and served.

        `start` runs it to its end, writes summary and report into the run folder, and lets go of
        folder and ports; `close` does that too, where it is not started.

        Args:
            config: The run's configuration.
            run_dir: The run folder; None is `runs/<run_id>`.
            resume: Go on with the run in that folder.
            observe: Told of everything that happens.

        Raises:
            UsageError: Configuration, data or folder are wrong.
            RunError: The disk is full.
        """
        with ExitStack() as stack:
            folder, state = stack.enter_context(open_run(config, run_dir=run_dir, resume=resume))
            address, joined = stack.enter_context(serve_run(config, folder, state.run_id, observe))
            run = Run(config, folder, state, address, joined)
            strategy = stack.enter_context(cls.open(run))
            strategy._resources = stack.pop_all()
        return strategy

    @classmethod
    @contextmanager
    def open(cls, run: Run) -> Iterator[FedDistill]:
        """Prepares what is left of a run, in a folder that is held, beside services that are there.

        Args:
            run: Configuration, folder, state to begin from, address of the label service.

        Yields:
            The strategy; its `start` runs the run to its end.

        Raises:
            UsageError: Configuration or data are wrong.
        """
        begin = time.monotonic() - run.state.wall_seconds
        run.observe(announce_run(run))
        check_names(run.config)
        prepared = prepare(run)
        with PredictionWriter(run.run_dir) as predictions:

            def commit(state: FederationState, scores: list[ReplyScore]) -> None:
                predictions.commit(scores)
                state.wall_seconds = time.monotonic() - begin
                commit_state(state, run.run_dir)

            strategy = cls(
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
            federation = strategy.federation
            federation.fleet.roster.guard = Guard(run.config, run.run_dir, run.state.run_id)
            commit(run.state, [])  # from here on the teacher is there: a resumed run trains none
            if federation.scheme.conclude is not None:
                loop = make_loop(
                    run, prepared.exchange, federation, oldest_open_round=strategy.oldest_open_round
                )
                strategy.close_the_loop(*loop)
            strategy._end = lambda grid: end_run(
                grid, run, prepared, federation, commit=lambda: commit(run.state, [])
            )
            yield strategy

    def close(self) -> None:
        """Lets go of what `prepare` opened; `start` does it at its end."""
        self._resources.close()

    @property
    def state(self) -> FederationState:
        """All that is known after the last committed round."""
        return self.federation.state

    def close_the_loop(self, receive: Receive, conclude: Conclude) -> None:
        """Makes nodes send what they learned, and every round publish something new.

        Args:
            receive: Reads and checks the array that came with an answer.
            conclude: Turns a round's arrays into what the next round fetches, and notes on it.
        """
        self._receive, self._conclude = receive, conclude
        self.federation.concludes = True
        if self._weighs_late:
            self.federation.fleet.keep_late = self._late.keep

    def oldest_open_round(self, round_number: int) -> int:
        """Says which round's answers are the oldest that may still be used when a round is concluded."""
        pending = self.federation.fleet.roster.pending_rounds if self._weighs_late else []
        return self._late.note_round(round_number, self.federation.publication, pending=pending)

    def introduce(self, grid: Grid) -> None:
        """Waits until every node of the federation has said its name; see `introduce_fleet`."""
        settings = self.federation.config.federation
        with timed_phase(self.federation.observe, "nodes", settings.num_nodes):
            introduce_fleet(grid, self.federation)

    def summary(self) -> None:
        """Logs what this strategy is set to."""
        federation = self.federation
        LOGGER.info("FedDistill: %d steps a round, %s", federation.num_steps, federation.config.federation)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Writes the tasks of one round; `arrays` and `config` stay unused, labels travel beside Flower."""
        federation, num_late = self.federation, self.state.num_late
        roster = federation.fleet.roster
        if not roster.flower_ids:
            self.introduce(grid)
        await_fleet(grid, federation, round_number=server_round)
        sample = sample_nodes(federation.fleet, self.state, federation.config, round_number=server_round)
        self._round = Round(server_round, sample, num_late_before=num_late)
        federation.fleet.open_round(server_round)
        return [
            Message(
                pack(self._task(node_id, server_round)),
                roster.flower_ids[node_id],
                "train",
                # A task that still waits at the deadline is not worth beginning.
                ttl=self._node_deadline or None,
                group_id=str(server_round),
            )
            for node_id in sample.node_ids
        ]

    def _task(self, node_id: str, round_number: int) -> fleet_pb2.TaskRequest:
        node = self.state.nodes[node_id]
        return self.federation.write_task(node, round_number, deadline_seconds=self._node_deadline)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Scores the answers, sorted by node; what is wrong or of another round is dropped and counted.

        Returns:
            No arrays, since students stay on their nodes, and the round's mean figures;
            None for both where no answer was good.
        """
        self._round = Round(server_round, self._round.sample, num_late_before=self._round.num_late_before)
        for reply in replies:
            self._judge(reply, reply.metadata.src_node_id)
        self._round.sort()
        return None, self._round.metrics()

    def _judge(self, reply: Message, flower_id: int) -> None:
        """Takes one answer, while the other nodes still work; that of a lost node comes from Flower."""
        node_id, number = self.federation.fleet.roster.name(flower_id), self._round.number
        try:
            run_id = self.state.run_id
            response = read_answer(reply, run_id=run_id, round_number=number, node_id=node_id)
            self._round.scores.append(self._score(response, self.federation.publication))
        except (UnusedReplyError, ExchangeError) as error:
            self._drop(ReplyDropped(number, node_id, getattr(error, "kind", "refused"), str(error)))

    def _score(self, response: fleet_pb2.TaskResponse, publication: Publication) -> ReplyScore:
        task = self._task(response.node_id, response.round)
        score = accept_answer(self.federation, response, task, publication, receive=self._receive)
        if self._stage is not None:
            self._stage(score)
            score = score.without_predictions()
        node = self.state.nodes[response.node_id]
        self.federation.observe(announce_reply(score, node))
        return score

    def _drop(self, event: ReplyDropped) -> None:
        if event.reason == "late":
            self.state.num_late += 1
        else:
            self._round.dropped.append(event)
        self.federation.observe(event)

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

        A strategy that was prepared goes on to the run's end: controls, artefacts, summary, report.

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
        try:
            self.summary()
            result = self._run_rounds(grid, num_rounds, timeout=timeout)
            if self._end is not None:
                self._end(grid)
        finally:
            self.close()
        return result

    def _run_rounds(self, grid: Grid, num_rounds: int | None, *, timeout: float | None) -> Result:
        federation, state = self.federation, self.state
        if not federation.fleet.roster.flower_ids:
            self.introduce(grid)
        if num_rounds is not None:
            federation.last_round = num_rounds
        result = Result()
        while state.round < federation.last_round and not state.stopped_because:
            metrics = self._run_round(grid, state.round + 1, timeout=timeout)
            result.train_metrics_clientapp[state.round] = metrics
        federation.fleet.keep_late = None
        self._late.drop_all(self._drop)
        state.stopped_because = state.stopped_because or "the last round is over"
        return result

    def _run_round(self, grid: Grid, round_number: int, *, timeout: float | None) -> MetricRecord:
        federation, settings = self.federation, self.federation.config.federation
        begin = time.monotonic()
        messages = list(self.configure_train(round_number, ArrayRecord(), ConfigRecord(), grid))
        self.oldest_open_round(round_number)
        current = self._round
        num_needed = current.num_needed(settings)
        deadline_seconds = settings.deadline_seconds if timeout is None else timeout
        gather_answers(
            grid, federation, current, messages, judge=self._judge, deadline_seconds=deadline_seconds
        )
        current.seconds = time.monotonic() - begin
        current.sort()
        current.check(settings)
        # Only at the deadline: who is slower than a quorum has done nothing wrong.
        is_awaited = not self._weighs_late and current.num_good < num_needed
        silent = federation.fleet.roster.list_silent(round_number) if is_awaited else []
        failures = current.list_failures(node_deadline=self._node_deadline, silent=silent)
        record_failures(self.state.nodes, failures, round_number=round_number, rest_after=settings.rest_after)
        late = self._late.take(round_number, self.state, current.scores, score=self._score, drop=self._drop)
        close_round(
            federation,
            current,
            late,
            seconds=time.monotonic() - begin,
            conclude=self._conclude,
            commit=self._commit,
        )
        federation.observe(PhaseEnded("round", time.monotonic() - begin, round_number))
        metrics = current.metrics()
        assert metrics is not None  # checked above
        return metrics
