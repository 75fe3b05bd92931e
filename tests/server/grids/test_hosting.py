import threading

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from server.grids import LocalGrid
from server.grids.hosting import BatchHost, decode, encode, stamp


@pytest.fixture
def host(monkeypatch):
    """A batch host of an app whose node 2 waits for `gate`."""
    gate, app = threading.Event(), ClientApp()

    @app.train()
    def train(message, context):
        if context.node_id == 2:
            gate.wait(10)
        return Message(message.content, reply_to=message)

    host = BatchHost("unused:app", num_nodes=3, run_config={})
    monkeypatch.setattr(host._host, "_client_app", app)
    host.gate = gate
    yield host
    gate.set()
    host._thread.shutdown()


def batch(*node_ids):
    LocalGrid(num_nodes=3, run_config={})  # enters a run
    messages = [Message(RecordDict({"c": ConfigRecord({"a": 1})}), node_id, "train") for node_id in node_ids]
    for message in messages:
        stamp(message)
    return [(encode(message), False) for message in messages]


def sources(replies):
    return [decode(reply).metadata.src_node_id for reply in replies]


def test_batch_in_time_is_answered_whole(host):
    replies, num_begun = host.handle(batch(1, 3), 10.0)
    assert (sources(replies), num_begun) == ([1, 3], 2)


def test_long_message_lets_go_of_what_is_done_and_what_waits(host):
    replies, num_begun = host.handle(batch(1, 2, 3), 0.1)
    assert (sources(replies), num_begun) == ([1], 2)


def test_long_message_is_answered_in_the_end_and_the_rest_left_alone(host):
    host.handle(batch(1, 2, 3), 0.1)
    host.gate.set()
    replies, _ = host.finish()
    assert sources(replies) == [2]
    assert 3 not in host._host._contexts


def test_host_is_ready_for_the_next_batch_after_a_long_message(host):
    host.handle(batch(2, 3), 0.1)
    host.gate.set()
    host.finish()
    replies, num_begun = host.handle(batch(3, 1), None)
    assert (sources(replies), num_begun) == ([3, 1], 2)
