"""What both grids share: Flower's side of a grid."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable, Set

from flwr.app import Message, MessageType, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedstill.common.errors import RunError
from fedstill.server.grids.hosting import decode, encode, refuse, stamp
from fedstill.server.grids.mailroom import Job

PULL_SECONDS = 0.05
"""How long a pull waits for a reply: a polling loop then costs neither CPU nor latency."""


class HostedGrid(Grid):
    """Flower's side of a grid whose nodes live in processes that we hold.

    Two grids inherit from it, a level more than elsewhere: otherwise each would
    repeat Flower's seven members word by word. A grid belongs to one thread, and
    works while it is pulled; a process has one at a time, since Flower keeps the
    identity of a run per process.

    A message that no node took up within its `ttl` is answered by an error, so what
    a deadline left in the queue need not delay the next round.

    Args:
        num_nodes: Virtual nodes; their ids are 1 to num_nodes.
        max_together: Messages of one type and group, of nodes to train, that a host carries out side
            by side at most, where its app has a way to; 0: each is carried out by itself.
    """

    def __init__(self, *, num_nodes: int, max_together: int = 0) -> None:
        self._num_nodes = num_nodes
        self._max_together = max_together
        self._replies: dict[str, bytes] = {}
        self.set_run(Run.create_empty(run_id=time.time_ns()))

    def set_run(self, run: Run) -> None:
        """Enters a run: messages made in this process from now on belong to it."""
        self._run = run
        TaskIdentity.run_id = run.run_id
        TaskIdentity.task_id = 1
        TaskIdentity.node_id = SUPERLINK_NODE_ID

    @property
    def run(self) -> Run:
        """The run that this grid is in."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Makes a message; the same as Flower's `Message(…)`."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Lists the nodes, all of which are there from the start."""
        return list(range(1, self._num_nodes + 1))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Takes messages, as they are now, for their nodes.

        Args:
            messages: What to send; later changes to them go unseen.

        Returns:
            One id per message, in order, for `pull_messages`.

        Raises:
            RunError: A message for a node that is not here; none is sent then.
        """
        messages = list(messages)
        for message in messages:
            node_id = message.metadata.dst_node_id
            if not 1 <= node_id <= self._num_nodes:
                raise RunError(
                    f"no node {node_id} on this grid: its nodes are 1 to {self._num_nodes};"
                    " send to those that get_node_ids lists"
                )
        message_ids = []
        for message in messages:
            message_id, metadata = stamp(message), message.metadata
            message_ids.append(message_id)
            # From here on by a clock that nobody sets: a machine's own may jump by weeks.
            expires_at = time.monotonic() + metadata.ttl - (time.time() - metadata.created_at)
            group = ""
            if self._max_together and metadata.message_type.partition(".")[0] == MessageType.TRAIN:
                group = f"{metadata.message_type} {metadata.group_id}"
            self._accept(Job(message_id, metadata.dst_node_id, encode(message), expires_at, group))
        return message_ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Collects the replies that are here, after a short wait where there is none.

        Args:
            message_ids: Ids that `push_messages` gave; unknown ones are passed over.

        Returns:
            Replies in the order in which they came, each given out once.
        """
        wanted = message_ids if isinstance(message_ids, Set) else set(message_ids)
        here = any(message_id in wanted for message_id in self._replies)
        self._advance(0.0 if here else PULL_SECONDS)
        found = [message_id for message_id in self._replies if message_id in wanted]
        return [decode(self._replies.pop(message_id)) for message_id in found]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Sends messages and waits for their replies.

        Args:
            messages: What to send.
            timeout: Seconds after which it returns what is there; None waits for all.

        Returns:
            The replies, in the order in which they came.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        missing = set(self.push_messages(messages))
        replies: list[Message] = []
        while missing and (deadline is None or time.monotonic() < deadline):
            for reply in self.pull_messages(missing):
                missing.discard(reply.metadata.reply_to_message_id)
                replies.append(reply)
        return replies

    def _answer(self, job: Job, reply: bytes) -> None:
        self._replies[job.message_id] = reply

    def _fail(self, job: Job, *, code: int, reason: str) -> None:
        self._answer(job, refuse(decode(job.data), code=code, reason=reason))

    def _expired(self, job: Job) -> bool:
        if time.monotonic() < job.expires_at:
            return False
        self._fail(job, code=ErrorCode.MESSAGE_UNAVAILABLE, reason="it expired before its node took it up")
        return True

    @abstractmethod
    def _accept(self, job: Job) -> None:
        """Queues a message."""

    @abstractmethod
    def _advance(self, timeout_seconds: float) -> None:
        """Moves work on; returns at the first reply, or after the timeout."""
