"""The nodes of a run: who they are, and asking them things outside rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from flwr.app import Message
from flwr.serverapp import Grid
from google.protobuf.message import Message as ProtoMessage

from fedstill.common.wire import unpack
from fedstill.protos.fedstill.v1 import fleet_pb2
from fedstill.server.fleet.guard import Guard
from fedstill.server.fleet.mailbox import Mailbox, collect, explain_error, send
from fedstill.server.fleet.reception import Reception
from fedstill.server.run.events import ReplyDropped

AnswerT = TypeVar("AnswerT", bound=ProtoMessage)


class Fleet:
    """Names of the nodes, by Flower's ids and ours, and what they have not answered yet."""

    def __init__(self, *, run_id: str, on_drop: Callable[[ReplyDropped], None]) -> None:
        """Knows nobody yet.

        Args:
            run_id: Our run id.
            on_drop: Told of every answer that is an error or late.
        """
        self.run_id = run_id
        self.mailbox = Mailbox()
        self.flower_ids: dict[str, int] = {}
        """Flower's node id by ours."""
        self.guard: Guard | None = None
        """Lets nodes in and opens rounds; None: anyone, at any time."""
        self.nonce = b""
        """What the tasks of the open round carry."""
        self.departed: set[str] = set()
        """Nodes that are not on the grid any more, as far as it was looked at."""
        self.round = 0
        """The round that is open."""
        self.is_introduced = False
        """Whether the federation has begun; who comes now joins it as it runs."""
        self.drop = on_drop
        self._names: dict[int, str] = {}
        self._reception: Reception | None = None
        self.keep_late: Callable[[int, str, Message], bool] | None = None
        """Asked whether it takes an answer to a round that is over: round, node and answer."""

    def open_round(self, round_number: int) -> None:
        """Lets this run's nodes upload for a round, and for no other any more unless late ones are kept."""
        self.round = round_number
        if self.guard is not None:
            # Rounds whose answers may still be used stay open for the arrays that come with them.
            pending = self.pending_rounds if self.keep_late is not None else []
            oldest = min([round_number, *pending])
            self.nonce = self.guard.open_round(round_number, self.flower_ids, keep_from=oldest)

    @property
    def pending_rounds(self) -> list[int]:
        """Rounds of the messages that are not answered."""
        return [number for number, _ in self.mailbox.pending.values()]

    def name(self, flower_id: int) -> str:
        """Gives our name of one of Flower's nodes."""
        return self._names.get(flower_id, f"flower-{flower_id}")

    @property
    def busy(self) -> set[str]:
        """Names of nodes that still owe an answer."""
        owing = {flower_id for _, flower_id in self.mailbox.pending.values()}
        return {self._names[flower_id] for flower_id in owing & self._names.keys()}

    def list_silent(self, round_number: int) -> list[str]:
        """Lists the nodes that owe the answer of a round."""
        pending = self.mailbox.pending.values()
        return [self.name(flower_id) for asked_in, flower_id in pending if asked_in == round_number]

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
            RunError: Fewer nodes came in time, one refused, or two share a name.
        """
        self._reception = Reception(self, num_nodes=num_nodes, expected=expected, on_hello=on_hello)
        self._reception.introduce(grid, wait_seconds=wait_seconds, min_nodes=min_nodes)
        self.is_introduced = True

    def look_for_newcomers(self, grid: Grid) -> None:
        """Asks those for their names who have come to the grid since; call it as often as you like."""
        if self._reception is not None:
            self._reception.look(grid)

    def enter(self, node_id: str, flower_id: int) -> None:
        """Gives a name to one of Flower's nodes."""
        self.flower_ids[node_id] = flower_id
        self._names[flower_id] = node_id
        self.departed.discard(node_id)

    def forget(self, node_id: str) -> None:
        """Takes a name from the one of Flower's nodes that had it, and gives up what that one owes."""
        flower_id = self.flower_ids.pop(node_id)
        del self._names[flower_id]
        for message_id, (asked_in, owing) in list(self.mailbox.pending.items()):
            if owing == flower_id:
                del self.mailbox.pending[message_id]
                reason = "lost" if asked_in == self.round else "late"
                self.drop(ReplyDropped(asked_in, node_id, reason, "its SuperNode was started again"))

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
            on_answer: Told of each good answer; errors go to `on_drop`.
        """

        def take(flower_id: int, reply: Message) -> None:
            if reply.has_error():
                reason, text = explain_error(reply)
                self.drop(ReplyDropped(round_number, self.name(flower_id), reason, text))
            else:
                on_answer(self.name(flower_id), unpack(reply.content, kind))

        addressed = {self.flower_ids[node_id]: request for node_id, request in requests.items()}
        sent = send(grid, self.mailbox, addressed, message_type=message_type, round_number=round_number)
        collect(
            grid,
            self.mailbox,
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
            rounds = {node: number for number, node in self.mailbox.pending.values()}
            pending = {message_id: node for message_id, (_, node) in self.mailbox.pending.items()}
            if not pending and not self.departed:
                return False
            if not pending:
                time.sleep(min(1.0, max(0.0, end - time.monotonic())))
                continue
            collect(
                grid,
                self.mailbox,
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
        if self.keep_late is not None and self.keep_late(round_number, self.name(flower_id), reply):
            return
        kind, detail = explain_error(reply) if reply.has_error() else ("late", "its round was closed")
        if kind != "unanswered":  # that was said as its round was closed
            self.drop(ReplyDropped(round_number, self.name(flower_id), "late", detail))
