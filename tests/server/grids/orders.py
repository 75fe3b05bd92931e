"""Messages that tell `echo_app` what to do, and what is read from its replies."""

import time

from flwr.app import ConfigRecord, Message, RecordDict

NUM_NODES = 6


def tell(node_id, action="echo", **order):
    return Message(RecordDict({"order": ConfigRecord({"action": action, **order})}), node_id, "train")


def tell_all(grid, action="echo", **order):
    return [tell(node_id, action, **order) for node_id in grid.get_node_ids()]


def by_node(replies):
    return {reply.metadata.src_node_id: reply for reply in replies}


def facts(replies):
    return {node_id: reply.content["facts"] for node_id, reply in by_node(replies).items()}


def pull_until(grid, message_ids, *, seconds=20.0):
    missing, replies, deadline = set(message_ids), [], time.monotonic() + seconds
    while missing and time.monotonic() < deadline:
        found = grid.pull_messages(missing)
        replies += found
        missing -= {reply.metadata.reply_to_message_id for reply in found}
    return replies
