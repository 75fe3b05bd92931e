"""The nodes of a run: who they are, and asking them things outside rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from flwr.app import Message
from flwr.serverapp import Grid
from google.protobuf.message import Message as ProtoMessage

from fedstill.common.errors import ExchangeError
from fedstill.common.wire import unpack
from fedstill.protos.fedstill.v1 import fleet_pb2
from fedstill.server.fleet.claims import check_claims
from fedstill.server.fleet.mailbox import collect, explain_error, send
from fedstill.server.fleet.reception import Reception
from fedstill.server.fleet.roster import Roster
from fedstill.server.run.events import ReplyDropped

AnswerT = TypeVar("AnswerT", bound=ProtoMessage)


class Fleet:
    """The nodes of a run: waits for them, and asks them things outside rounds."""

    def __init__(self, *, run_id: str, on_drop: Callable[[ReplyDropped], None]) -> None:
        """Knows nobody yet.

        Args:
            run_id: Our run id.
            on_drop: Told of every answer that is an error or late.
        """
        self.roster = Roster(run_id=run_id, on_drop=on_drop)
        self.nonce = b""
        """What the tasks of the open round carry."""
        self._reception: Reception | None = None
        self.keep_late: Callable[[int, str, Message], bool] | None = None
        """Asked whether it takes an answer to a round that is over: round, node and answer."""

    def open_round(self, round_number: int) -> None:
        """Lets this run's nodes upload for a round, and for no other any more unless late ones are kept."""
        self.roster.round = round_number
        if self.roster.guard is not None:
            # Rounds whose answers may still be used stay open for the arrays that come with them.
            pending = self.roster.pending_rounds if self.keep_late is not None else []
            oldest = min([round_number, *pending])
            self.nonce = self.roster.guard.open_round(round_number, self.roster.flower_ids, keep_from=oldest)

    def introduce(
        self,
        grid: Grid,
        *,
        num_nodes: int,
        wait_seconds: float,
        expected: fleet_pb2.InputSpec,
        min_nodes: int = 0,
        on_hello: Callable[[fleet_pb2.HelloResponse, bool], None],
    ) -> None:
        """Waits until every node of the federation has said its name.

        Args:
            grid: The grid that the nodes are on.
            num_nodes: Nodes that have to come.
            wait_seconds: Longest wait.
            min_nodes: Nodes that are enough when the wait is over; 0 is all of them.
            expected: What samples look like, for devices that bring data of their own.
            on_hello: Told of each that came, and whether its name was there before; also of those that
                come, or come back, while the federation runs.

        Raises:
            RunError: Fewer nodes came in time than did not refuse, all refused, or two share a name.
        """
        self._reception = Reception(
            self.roster, num_nodes=num_nodes, expected=expected, on_hello=on_hello, on_late=self.drop_late
        )
        self._reception.introduce(grid, wait_seconds=wait_seconds, min_nodes=min_nodes)
        self.roster.is_introduced = True

    def look_for_newcomers(self, grid: Grid) -> None:
        """Asks those for their names who have come to the grid since; call it as often as you like."""
        if self._reception is not None:
            self._reception.look(grid)

    def ask(
        self,
        grid: Grid,
        requests: Mapping[str, ProtoMessage],
        kind: type[AnswerT],
        *,
        message_type: str,
        round_number: int,
        deadline_seconds: float,
        on_answer: Callable[[str, AnswerT], None],
    ) -> None:
        """Asks nodes something outside a round and waits for all of them.

        Args:
            grid: The grid that the nodes are on.
            requests: Request by node id.
            kind: Message type of the answers.
            message_type: Flower's message type, as "evaluate".
            round_number: Last round, for the record of what is dropped.
            deadline_seconds: Longest wait.
            on_answer: Told of each good answer; may raise `ExchangeError` for one that does not fit. Errors
                and what does not fit go to `on_drop`.
        """

        def take(flower_id: int, reply: Message) -> None:
            name = self.roster.name(flower_id)
            if reply.has_error():
                self.roster.drop(ReplyDropped(round_number, name, *explain_error(reply)))
                return
            try:
                answer = unpack(reply.content, kind)
                check_claims(answer)
                on_answer(name, answer)
            except ExchangeError as error:
                self.roster.drop(ReplyDropped(round_number, name, "refused", str(error)))

        addressed = {self.roster.flower_ids[node_id]: request for node_id, request in requests.items()}
        sent = send(
            grid, self.roster.mailbox, addressed, message_type=message_type, round_number=round_number
        )
        collect(
            grid,
            self.roster.mailbox,
            sent,
            num_needed=len(sent),
            deadline_seconds=deadline_seconds,
            on_reply=take,
            on_late=self.drop_late,
        )

    def await_answers(self, grid: Grid, *, wait_seconds: float, enough: Callable[[], bool]) -> bool:
        """Waits for answers that are owed, all of them late, and for nodes that left, until there are enough.

        Args:
            grid: The grid that the nodes are on.
            wait_seconds: Longest wait.
            enough: Says when to stop.

        Returns:
            What `enough` says in the end.
        """
        rounds: dict[int, int] = {}

        def drop(node: int, reply: Message) -> None:
            self.drop_late(rounds[node], node, reply)

        end = time.monotonic() + wait_seconds
        while not enough() and time.monotonic() < end:
            self.look_for_newcomers(grid)
            rounds = {node: number for number, node in self.roster.mailbox.pending.values()}
            pending = {message_id: node for message_id, (_, node) in self.roster.mailbox.pending.items()}
            if not pending and not self.roster.departed:
                return False
            if not pending:
                time.sleep(min(1.0, max(0.0, end - time.monotonic())))
                continue
            collect(
                grid,
                self.roster.mailbox,
                pending,
                num_needed=1,
                deadline_seconds=min(1.0, max(0.01, end - time.monotonic())),
                on_reply=drop,
                on_late=self.drop_late,
            )
        return enough()

    def drop_late(self, round_number: int, flower_id: int, reply: Message) -> None:
        """Records an answer to a round that is over, unless it is kept or a newcomer's name."""
        if self._reception is not None and self._reception.take_late(flower_id, reply):
            return
        if self.keep_late is not None and self.keep_late(round_number, self.roster.name(flower_id), reply):
            return
        kind, detail = explain_error(reply) if reply.has_error() else ("late", "its round was closed")
        if kind != "unanswered":  # that was said as its round was closed
            self.roster.drop(ReplyDropped(round_number, self.roster.name(flower_id), "late", detail))
