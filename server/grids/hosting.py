"""What a process does that hosts virtual nodes: bytes in, client app, bytes out.

Messages cross as Flower's own protobuf even within one process, so that two nodes
never share a mutable record and each grid gives the same replies.
"""

from __future__ import annotations

import importlib
import logging
import math
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import NUM_PARTITIONS_KEY, PARTITION_ID_KEY, ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage

from fedstill.common.config import Scalar
from fedstill.common.errors import ConfigError, RunError

Together = Callable[[Sequence[Message], Sequence[Context]], list[Message | Exception]]

_log = logging.getLogger("fedstill.node")


def encode(message: Message) -> bytes:
    """Serialises a message; the result shares nothing with it."""
    data: bytes = message_to_proto(message).SerializeToString()
    return data


def decode(data: bytes) -> Message:
    """Parses what `encode` wrote."""
    return message_from_proto(ProtoMessage.FromString(data))


def stamp(message: Message) -> str:
    """Gives a message its id, which Flower leaves to whoever carries it."""
    message_id = uuid.uuid4().hex
    message.metadata.__dict__["_message_id"] = message_id
    return message_id


def refuse(message: Message, *, code: int, reason: str) -> bytes:
    """Writes the error that answers a message, ready to travel."""
    # A file name in it may hold what is no text, and could not travel.
    reply = Message(Error(code, reason.encode(errors="replace").decode()), reply_to=message)
    stamp(reply)
    return encode(reply)


class NodeHost:
    """Hosts virtual nodes, each with a Flower `Context` of its own.

    A node's `Context.state` lives here, in memory: it is kept from message to message
    as long as the node stays, and starts empty when the node comes from another host.

    Args:
        client_app: The app, or where to import it from, as "fedstill.clients.app:app".
        num_nodes: Nodes of the federation, here and elsewhere; their ids are 1 to
            num_nodes, and node n owns partition n - 1.
        run_config: Flat, dotted keys that each node finds in its context.
    """

    def __init__(
        self, client_app: ClientApp | str, *, num_nodes: int, run_config: Mapping[str, Scalar]
    ) -> None:
        self._client_app = client_app
        self._num_nodes = num_nodes
        self._run_config = dict(run_config)
        self._contexts: dict[int, Context] = {}
        self._together: Mapping[str, Together] = {}

    def warm_up(self) -> None:
        """Imports the app ahead of the first message; a failure is left for that message to report."""
        try:
            self._load()
        except Exception:  # noqa: BLE001 - a stranger's code; `handle` reports the same error
            _log.exception("the client app cannot be imported yet")

    def handle(self, data: bytes, *, fresh: bool = False) -> bytes:
        """Carries out one message.

        Args:
            data: The message, as `encode` wrote it.
            fresh: The node was elsewhere since it was last here, or never here: its
                state starts empty.

        Returns:
            The reply in the same form; an error reply where the app could not be
            imported, raised, or returned something else.
        """
        message = decode(data)
        context = self._context_of(message, fresh=fresh)
        code = ErrorCode.LOAD_CLIENT_APP_EXCEPTION
        try:
            app = self._load()
            code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
            reply = app(message, context)
            if not isinstance(reply, Message) or (
                reply.metadata.reply_to_message_id != message.metadata.message_id
            ):
                raise RunError("a client app has to return a Message with reply_to set to the one it got")
            stamp(reply)
            return encode(reply)
        # SystemExit too: Ray takes it for a wish to be gone, and never restarts the actor.
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, it is this node's answer
            _log.exception("node %d answers with an error", message.metadata.dst_node_id)
            return refuse(message, code=code, reason=f"{type(error).__name__}: {error}")

    def handle_together(self, batch: Sequence[tuple[bytes, bool]]) -> list[bytes]:
        """Carries out messages of one type side by side, where the app's module has a way to.

        That is a function in its dictionary `TOGETHER`, by type of message: from messages and
        contexts to replies, or what kept a node from one, in their order.

        Args:
            batch: Messages and whether each one's node starts afresh, as for `handle`.

        Returns:
            A reply to each, as `handle` gives it.
        """
        self.warm_up()
        messages = [decode(data) for data, _ in batch]
        carry_out = self._together.get(messages[0].metadata.message_type) if messages else None
        if carry_out is None:
            return [self.handle(data, fresh=fresh) for data, fresh in batch]
        contexts = [
            self._context_of(message, fresh=fresh)
            for message, (_, fresh) in zip(messages, batch, strict=True)
        ]
        try:
            replies = carry_out(messages, contexts)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - as in `handle`
            failure = error if isinstance(error, Exception) else RunError(f"{type(error).__name__}: {error}")
            replies = [failure] * len(messages)
        return [self._close(message, reply) for message, reply in zip(messages, replies, strict=True)]

    def _close(self, message: Message, reply: Message | BaseException) -> bytes:
        if isinstance(reply, Message):
            stamp(reply)
            return encode(reply)
        _log.error("node %d answers with an error", message.metadata.dst_node_id, exc_info=reply)
        code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
        return refuse(message, code=code, reason=f"{type(reply).__name__}: {reply}")

    def _load(self) -> ClientApp:
        if isinstance(self._client_app, str):
            module, _, name = self._client_app.partition(":")
            found = importlib.import_module(module)
            loaded = getattr(found, name or "app", None)
            if not isinstance(loaded, ClientApp):
                raise ConfigError(f"expected a ClientApp at {self._client_app}, got {type(loaded).__name__}")
            self._client_app, self._together = loaded, getattr(found, "TOGETHER", {})
        return self._client_app

    def _context_of(self, message: Message, *, fresh: bool) -> Context:
        node_id, run_id = message.metadata.dst_node_id, message.metadata.run_id
        context = self._contexts.get(node_id)
        if fresh or context is None or context.run_id != run_id:
            context = Context(
                run_id=run_id,
                node_id=node_id,
                node_config={PARTITION_ID_KEY: node_id - 1, NUM_PARTITIONS_KEY: self._num_nodes},
                state=RecordDict(),
                run_config=dict(self._run_config),
            )
            self._contexts[node_id] = context
        return context


class Progress(NamedTuple):
    """How far a call came."""

    replies: list[bytes]
    """Of its first messages."""
    num_begun: int
    """One more than there are replies where one still runs; `finish` waits for that one."""
    seconds: float
    """How long it has been at them; what the first waited for is not counted."""


class _Run:
    """What became of the messages of one call."""

    def __init__(self) -> None:
        self.began = math.inf
        self.num_begun = 0
        self.is_cut = False
        self.replies: list[bytes] = []
        self.future: Future[None] = Future()

    def sum_up(self) -> Progress:
        return Progress(list(self.replies), self.num_begun, max(0.0, time.monotonic() - self.began))


class BatchHost:
    """A `NodeHost` that is given several messages at a time and lets go of them.

    Short messages travel in batches, since a call costs as much as they do. But a
    message that turns out to be long must not hold up those behind it: when the
    time is over, the batch comes back with what is done, and those that were not
    begun are free for another host, while the long one runs on here.

    Two calls may overlap: the messages of the second wait here for those of the first, so
    that no time passes between them.

    Args:
        client_app: As for `NodeHost`.
        num_nodes: As for `NodeHost`.
        run_config: As for `NodeHost`.
    """

    def __init__(self, client_app: str, *, num_nodes: int, run_config: Mapping[str, Scalar]) -> None:
        self._host = NodeHost(client_app, num_nodes=num_nodes, run_config=run_config)
        # One thread for all of the app's code: thread counts and modes are kept per thread.
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._lock = threading.Lock()
        self._cut = _Run()

    def warm_up(self) -> None:
        """Imports the app, as `NodeHost.warm_up`."""
        self._thread.submit(self._host.warm_up).result()

    def handle(self, batch: Sequence[tuple[bytes, bool]], seconds: float | None) -> Progress:
        """Carries out messages in order, as long as the time lasts.

        Args:
            batch: Messages and whether each one's node starts afresh, as for `NodeHost.handle`.
            seconds: When to return at the latest; None waits for all.

        Returns:
            What became of them.
        """
        run = self._begin(batch, seconds)
        with self._lock:
            run.is_cut = True
            if len(run.replies) < run.num_begun:
                self._cut = run
            return run.sum_up()

    def handle_together(self, batch: Sequence[tuple[bytes, bool]]) -> Progress:
        """Carries out messages side by side, as `NodeHost.handle_together`, and waits for all."""
        began = time.monotonic()
        replies = self._thread.submit(self._host.handle_together, batch).result()
        return Progress(replies, len(replies), time.monotonic() - began)

    def finish(self) -> Progress:
        """Waits for the message that `handle` left running, and returns its reply alike."""
        self._cut.future.result()
        return Progress(self._cut.replies[-1:], 1, time.monotonic() - self._cut.began)

    def wait_and_handle(self, batch: Sequence[tuple[bytes, bool]], seconds: float) -> Progress:
        """Carries out a message that waits for those of another call, no longer than the time lasts.

        Args:
            batch: The message, as for `handle`.
            seconds: How long it may wait; then it comes back, not begun.

        Returns:
            What became of it.
        """
        run = self._begin(batch, seconds)
        run.future.cancel()
        with suppress(CancelledError):
            run.future.result()
        return run.sum_up()

    def _begin(self, batch: Sequence[tuple[bytes, bool]], seconds: float | None) -> _Run:
        run = _Run()
        run.future = self._thread.submit(self._carry_out, run, batch)
        with suppress(TimeoutError):
            run.future.result(seconds)
        return run

    def _carry_out(self, run: _Run, batch: Sequence[tuple[bytes, bool]]) -> None:
        run.began = time.monotonic()
        for data, fresh in batch:
            with self._lock:
                if run.is_cut:
                    return
                run.num_begun += 1
            reply = self._host.handle(data, fresh=fresh)
            with self._lock:
                run.replies.append(reply)
