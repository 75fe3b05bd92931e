"""The nodes of a run: who they are, and asking them things outside rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import TypeVar

from flwr.app import Message
from flwr.serverapp import Grid
from google.protobuf.message import Message as ProtoMessage

from common.errors import AccessError, RunError
from common.wire import unpack
from protos.fedstill.v1 import fleet_pb2
from server.events import ReplyDropped
from server.guard import Guard
from server.replies import Mailbox, collect, explain_error, send

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
        self._names: dict[int, str] = {}
        self._on_drop = on_drop
        self.keep_late: Callable[[int, str, Message], bool] | None = None
        """Asked whether it takes an answer to a round that is over: round, node and answer."""

    def open_round(self, round_number: int) -> None:
        """Lets this run's nodes upload for a round, and for no other any more unless late ones are kept."""
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
        return {self.name(flower_id) for _, flower_id in self.mailbox.pending.values()}

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
        on_hello: Callable[[fleet_pb2.HelloResponse], None],
    ) -> None:
        """Waits until every node of the federation has said its name.

        Args:
            grid: The grid that the nodes are on.
            num_nodes: Nodes that have to come.
            wait_seconds: Longest wait.
            min_nodes: Nodes that are enough when the wait is over; 0 is all of them.
            expected: What samples look like, for devices that bring data of their own.
            on_hello: Told of each that came.

        Raises:
            RunError: Fewer nodes came in time, one refused, or two share a name.
        """
        wanted = {"nodes": num_nodes}  # fewer where the whole grid is smaller, as Flower's simulation can be

        def welcome(flower_id: int, reply: Message) -> None:
            if reply.has_error():
                kind, text = explain_error(reply)
                if kind != "lost":
                    raise RunError(f"a node refused the run: {text}")
                asked.discard(flower_id)  # its process died; it is asked again when it is back
                return
            hello = unpack(reply.content, fleet_pb2.HelloResponse)
            if not self._admit(flower_id, hello, nonces[flower_id]):
                return
            if not hello.node_id:
                return  # Flower's simulation may have more nodes than this federation
            if hello.node_id in self.flower_ids:
                raise RunError(f"two nodes call themselves {hello.node_id}; give each a partition of its own")
            if 0 < hello.num_partitions < wanted["nodes"]:
                wanted["nodes"] = hello.num_partitions
            self.flower_ids[hello.node_id] = flower_id
            self._names[flower_id] = hello.node_id
            on_hello(hello)

        end = time.monotonic() + wait_seconds
        version = metadata.version("fedstill")
        nonces: dict[int, bytes] = {}
        asked: set[int] = set()
        while len(self.flower_ids) < wanted["nodes"] and time.monotonic() < end:
            fresh = sorted(set(grid.get_node_ids()) - asked)
            if not fresh:
                time.sleep(0.1)
                continue
            asked.update(fresh)
            nonces |= {flower_id: self.guard.ask() if self.guard else b"" for flower_id in fresh}
            requests = {
                flower_id: fleet_pb2.HelloRequest(
                    run_id=self.run_id, version=version, input=expected, nonce=nonces[flower_id]
                )
                for flower_id in fresh
            }
            sent = send(grid, self.mailbox, requests, message_type="query", round_number=0)
            collect(
                grid,
                self.mailbox,
                sent,
                num_needed=len(sent),
                deadline_seconds=max(1.0, end - time.monotonic()),
                on_reply=welcome,
                on_late=self.drop_late,
            )
        if len(self.flower_ids) < min(min_nodes or num_nodes, wanted["nodes"]):
            raise RunError(
                f"expected {num_nodes} nodes, {len(self.flower_ids)} introduced themselves within"
                f" {wait_seconds:g} s; start the others or raise federation.wait_seconds"
            )

    def _admit(self, flower_id: int, hello: fleet_pb2.HelloResponse, nonce: bytes) -> bool:
        try:
            if self.guard is not None:
                self.guard.admit(hello, nonce)
        except AccessError as error:
            self._on_drop(ReplyDropped(0, self.name(flower_id), "refused", str(error)))
            return False
        return True

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
                self._on_drop(ReplyDropped(round_number, self.name(flower_id), reason, text))
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
        """Waits for answers that are owed, all of them late, until there are enough.

        Args:
            grid: The grid that the nodes are on.
            wait_seconds: Longest wait.
            enough: Says when to stop.

        Returns:
            What `enough` says in the end.
        """
        rounds = {node: number for number, node in self.mailbox.pending.values()}

        def drop(node: int, reply: Message) -> None:
            self.drop_late(rounds[node], node, reply)

        end = time.monotonic() + wait_seconds
        while not enough() and time.monotonic() < end:
            pending = {message_id: node for message_id, (_, node) in self.mailbox.pending.items()}
            if not pending:
                return False
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
        """Records an answer to a round that is over, unless it is kept."""
        if self.keep_late is not None and self.keep_late(round_number, self.name(flower_id), reply):
            return
        detail = explain_error(reply)[1] if reply.has_error() else "its round was closed"
        self._on_drop(ReplyDropped(round_number, self.name(flower_id), "late", detail))
