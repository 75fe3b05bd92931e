"""Nodes that come, and come back: whoever is new on the grid is asked for its name.

A SuperNode that was killed and started again is another node to Flower, unless it is enrolled
with a key of its own. So a name moves to the newcomer where it is the same device for all
that can be told (the same private data), or where the node that had it has left the grid.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from flwr.app import Message
from flwr.serverapp import Grid

import fedstill
from fedstill.common.errors import AccessError, ExchangeError, RunError
from fedstill.common.wire import unpack
from fedstill.protos.fedstill.v1 import fleet_pb2
from fedstill.server.fleet.claims import check_claims
from fedstill.server.fleet.mailbox import collect, explain_error, send
from fedstill.server.fleet.roster import Roster
from fedstill.server.run.events import ReplyDropped

LOOK_SECONDS = 2.0
"""How often a running federation looks for newcomers."""


class Reception:
    """Asks newcomers for their names and gives them their places in the roster.

    Args:
        roster: Names and ids are entered there.
        num_nodes: Nodes that the federation has places for.
        expected: What samples look like, for devices that bring data of their own.
        on_hello: Told of each node that got a place, and whether its name had one before.
        on_late: Told of round, Flower's node id and answer where another answer comes while it waits.
    """

    def __init__(
        self,
        roster: Roster,
        *,
        num_nodes: int,
        expected: fleet_pb2.InputSpec,
        on_hello: Callable[[fleet_pb2.HelloResponse, bool], None],
        on_late: Callable[[int, int, Message], None],
    ) -> None:
        self._roster = roster
        self._num_nodes = num_nodes  # fewer where the whole grid is smaller, as Flower's simulation can be
        self._expected = expected
        self._on_hello = on_hello
        self._on_late = on_late
        self._nonces: dict[int, bytes] = {}
        self._unanswered: set[int] = set()
        self._refusals: dict[int, str] = {}
        self._claims: dict[int, int] = {}
        self._digests: dict[str, str] = {}
        self._looked_at = 0.0
        self._present: set[int] = set()

    def introduce(self, grid: Grid, *, wait_seconds: float, min_nodes: int = 0) -> None:
        """Waits until every node of the federation has said its name; see `Fleet.introduce`."""
        roster, end = self._roster, time.monotonic() + wait_seconds
        while (num_missing := self._count_missing()) > 0 and time.monotonic() < end:
            sent = self.greet(grid)
            if not sent and not self._unanswered:
                time.sleep(0.1)
                continue
            collect(
                grid,
                roster.mailbox,
                {message_id: node for message_id, (_, node) in roster.mailbox.pending.items()},
                num_needed=num_missing,
                deadline_seconds=min(1.0, max(0.01, end - time.monotonic())),
                on_reply=self._take,
                on_late=self._on_late,
            )
        num_here, num_enough = len(roster.flower_ids), min(min_nodes or self._num_places, self._num_places)
        if not min_nodes:
            num_enough -= self._count_lost()
        if not num_here and self._refusals:
            raise RunError(f"no node takes part; the first refused: {next(iter(self._refusals.values()))}")
        if num_here < num_enough:
            raise RunError(
                f"expected {self._num_nodes} nodes, {num_here} introduced themselves within"
                f" {wait_seconds:g} s; start the others or raise federation.wait_seconds"
            )

    def _count_missing(self) -> int:
        return self._num_places - len(self._roster.flower_ids) - self._count_lost()

    def _count_lost(self) -> int:
        # Who refused is not waited for, unless there are others for its place.
        num_spare = max(0, len(self._present) - self._num_places)
        return max(0, len(self._refusals.keys() & self._present) - num_spare)

    @property
    def _num_places(self) -> int:
        """Nodes of the federation; fewer where the whole grid is smaller, as Flower's simulation can be."""
        guard, claims = self._roster.guard, self._claims.values()
        # Who is enrolled is not asked, and one node's word is not enough: all have to say a number, the
        # largest counts, and it cannot be below those who are there.
        if (guard is not None and guard.is_enrolled) or self._unanswered or not claims or not all(claims):
            return self._num_nodes
        return min(self._num_nodes, max(*claims, len(self._present)))

    def look(self, grid: Grid) -> None:
        """Greets newcomers to a federation that runs, if it was not done just now."""
        if time.monotonic() - self._looked_at >= LOOK_SECONDS:
            self.greet(grid)

    def greet(self, grid: Grid) -> dict[str, int]:
        """Asks those who are new on the grid for their names.

        Args:
            grid: The grid that the nodes are on.

        Returns:
            Flower node id by message id.
        """
        self._looked_at = time.monotonic()
        self._present = set(grid.get_node_ids())
        roster, version = self._roster, fedstill.__version__
        fresh = sorted(self._present - self._nonces.keys())
        if not fresh:
            return {}
        nonces = {flower_id: roster.guard.ask() if roster.guard else b"" for flower_id in fresh}
        self._nonces |= nonces
        self._unanswered.update(fresh)
        requests = {
            flower_id: fleet_pb2.HelloRequest(
                run_id=roster.run_id, version=version, input=self._expected, nonce=nonce
            )
            for flower_id, nonce in nonces.items()
        }
        return send(grid, roster.mailbox, requests, message_type="query", round_number=roster.round)

    def take_late(self, flower_id: int, reply: Message) -> bool:
        """Takes what comes in the middle of a round, if it is a newcomer's name.

        Args:
            flower_id: Flower's id of the node.
            reply: What it sent.

        Returns:
            Whether it was.
        """
        if flower_id not in self._unanswered:
            return False
        try:
            self._take(flower_id, reply)
        except RunError as error:
            self._drop(flower_id, "refused", str(error))
        return True

    def _take(self, flower_id: int, reply: Message) -> None:
        roster = self._roster
        self._unanswered.discard(flower_id)
        if reply.has_error():
            kind, text = explain_error(reply)
            if kind == "error":
                self._leave_out(flower_id, text)
            else:
                del self._nonces[flower_id]  # its process died; it is asked again when it is back
            return
        try:
            hello = unpack(reply.content, fleet_pb2.HelloResponse)
            check_claims(hello)
            if roster.guard is not None:
                roster.guard.admit(hello, self._nonces[flower_id])
        except AccessError as error:  # a stranger: the one who belongs here may still come
            self._drop(flower_id, "refused", str(error))
            return
        except ExchangeError as error:
            self._leave_out(flower_id, str(error))
            return
        if not hello.node_id:
            return  # Flower's simulation may have more nodes than this federation
        self._claims[flower_id] = hello.num_partitions
        self._seat(flower_id, hello)

    def _seat(self, flower_id: int, hello: fleet_pb2.HelloResponse) -> None:
        roster, name = self._roster, hello.node_id
        is_back = name in roster.flower_ids
        if is_back:
            is_same = bool(hello.private_digest) and hello.private_digest == self._digests.get(name)
            if not is_same and roster.flower_ids[name] in self._present:
                raise RunError(f"two nodes call themselves {name}; give each a partition of its own")
            roster.forget(name)
        elif roster.is_introduced and len(roster.flower_ids) >= self._num_nodes:
            self._drop(flower_id, "refused", f"{name} is one node more than federation.num_nodes")
            return
        self._digests[name] = hello.private_digest
        roster.enter(name, flower_id)
        self._on_hello(hello, is_back)

    def _leave_out(self, flower_id: int, text: str) -> None:
        self._refusals[flower_id] = text
        self._drop(flower_id, "refused", f"it takes no part: {text}")

    def _drop(self, flower_id: int, reason: str, detail: str) -> None:
        self._roster.drop(ReplyDropped(self._roster.round, self._roster.name(flower_id), reason, detail))
