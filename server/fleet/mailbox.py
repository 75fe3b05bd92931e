"""Sends messages through a Grid and collects what comes back, in time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from google.protobuf.message import Message as ProtoMessage

from fedstill.common.wire import pack, unpack
from fedstill.protos.fedstill.v1 import fleet_pb2
from fedstill.server.fleet.claims import check_claims

POLL_SECONDS = 0.05
# What an error is for us; all others are the app's own.
ERROR_KINDS = {
    ErrorCode.NODE_UNAVAILABLE: "lost",
    ErrorCode.CLIENT_APP_CRASHED: "lost",
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: "lost",
    # A task expires with its round's deadline, and Flower may be the first to say so.
    ErrorCode.MESSAGE_UNAVAILABLE: "unanswered",
}


@dataclass
class Mailbox:
    """Messages that were sent and not yet answered, by Flower's message id.

    It outlives a round: an answer to an older round's task is told from a current
    one here, and can never be mixed in.
    """

    pending: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Message id → (round, Flower node id)."""


def send(
    grid: Grid,
    mailbox: Mailbox,
    requests: Mapping[int, ProtoMessage],
    *,
    message_type: str,
    round_number: int,
) -> dict[str, int]:
    """Sends one request per node.

    Args:
        grid: Any of Flower's or our grids.
        mailbox: Remembers what was sent.
        requests: Request by Flower node id.
        message_type: Flower's message type, as "train".
        round_number: Round that the requests belong to.

    Returns:
        Flower node id by message id.
    """
    messages = [
        Message(pack(request), node, message_type, group_id=str(round_number))
        for node, request in requests.items()
    ]
    return push(grid, mailbox, messages, round_number=round_number)


def push(grid: Grid, mailbox: Mailbox, messages: Sequence[Message], *, round_number: int) -> dict[str, int]:
    """Sends prepared messages; see `send`."""
    nodes = [message.metadata.dst_node_id for message in messages]
    sent = dict(zip(grid.push_messages(messages), nodes, strict=True))
    mailbox.pending.update({message_id: (round_number, node) for message_id, node in sent.items()})
    return sent


def collect(
    grid: Grid,
    mailbox: Mailbox,
    sent: Mapping[str, int],
    *,
    num_needed: int,
    deadline_seconds: float,
    on_reply: Callable[[int, Message], None],
    on_late: Callable[[int, int, Message], None],
    meanwhile: Callable[[], None] = lambda: None,
) -> int:
    """Waits until enough nodes answered, all answered, or the deadline passed.

    It looks a last time when the deadline is over, for what expired with it: whose task
    is gone owes nothing any more, and may get the next.

    Args:
        grid: The grid that the messages went through.
        mailbox: What is pending, older rounds included.
        sent: Flower node id by message id, of this round.
        num_needed: Successful answers that end the waiting.
        deadline_seconds: Longest wait; 0 is for ever.
        on_reply: Called with node and answer, errors included.
        on_late: Called with round, node and answer for any other message; what it takes out of the
            mailbox is waited for no longer.
        meanwhile: Called again and again.

    Returns:
        Messages of this round that are still unanswered.
    """
    end = time.monotonic() + deadline_seconds
    waiting = dict(sent)
    num_good = 0
    is_over = False
    while waiting and num_good < num_needed and not is_over:
        meanwhile()
        asked = time.monotonic()
        is_over = bool(deadline_seconds) and asked > end
        # A view, not a copy: at a hundred thousand nodes each copy would cost more than the answers.
        replies = list(grid.pull_messages(mailbox.pending.keys()))
        for reply in replies:
            message_id = reply.metadata.reply_to_message_id
            if message_id not in mailbox.pending:
                continue
            round_number, node = mailbox.pending.pop(message_id)
            if message_id in waiting:
                del waiting[message_id]
                num_good += not reply.has_error()
                on_reply(node, reply)
            else:
                num_pending = len(mailbox.pending)
                on_late(round_number, node, reply)
                if len(mailbox.pending) < num_pending:
                    waiting = {one: node for one, node in waiting.items() if one in mailbox.pending}
        if not (replies or is_over) and time.monotonic() - asked < POLL_SECONDS / 2:
            time.sleep(POLL_SECONDS)  # our grids wait inside pull_messages, Flower's returns at once
    return len(waiting)


def explain_error(reply: Message) -> tuple[str, str]:
    """Names why an answer is an error: ("lost", "unanswered" or "error", the last line of its text)."""
    reason = (reply.error.reason or "no reason given").strip()
    return ERROR_KINDS.get(reply.error.code, "error"), reason.splitlines()[-1]


class UnusedReplyError(Exception):
    """An answer that is not used; `kind` is the reason that is counted."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def read_answer(reply: Message, *, run_id: str, round_number: int, node_id: str) -> fleet_pb2.TaskResponse:
    """Reads the answer to a round's task.

    Args:
        reply: What came.
        run_id: The run.
        round_number: The round.
        node_id: The node that it came from.

    Returns:
        The answer.

    Raises:
        UnusedReplyError: An error, or the answer to another task or of another node.
        ExchangeError: Something else than an answer, or one that claims what cannot be.
    """
    if reply.has_error():
        raise UnusedReplyError(*explain_error(reply))
    response = unpack(reply.content, fleet_pb2.TaskResponse)
    if response.round != round_number or response.run_id != run_id:
        raise UnusedReplyError("late", f"answers round {response.round} of run {response.run_id}")
    if response.node_id != node_id:
        raise UnusedReplyError("refused", f"answers as {response.node_id}")
    check_claims(response)
    return response
