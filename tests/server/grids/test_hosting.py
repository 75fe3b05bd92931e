import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from fedstill.server.grids import LocalGrid
from fedstill.server.grids.hosting import BatchHost, decode, encode, stamp


@pytest.fixture
def host(monkeypatch):
    """A batch host of an app whose node 2 waits for `gate`."""
    gate, app = threading.Event(), ClientApp()

    @app.train()
    def train(message, context):
        if context.node_id == 2:
            gate.wait(10)
        if "file" in message.content["c"]:
            raise OSError(message.content["c"]["file"].encode().decode("ascii", "surrogateescape"))
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


def wait_until(condition):
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def sources(replies):
    return [decode(reply).metadata.src_node_id for reply in replies]


def test_batch_in_time_is_answered_whole(host):
    replies, num_begun, _ = host.handle(batch(1, 3), 10.0)
    assert (sources(replies), num_begun) == ([1, 3], 2)


def test_long_message_lets_go_of_what_is_done_and_what_waits(host):
    replies, num_begun, _ = host.handle(batch(1, 2, 3), 0.1)
    assert (sources(replies), num_begun) == ([1], 2)


def test_long_message_that_is_still_at_work_counts_its_time(host):
    assert host.handle(batch(2, 3), 0.1).seconds > 0.05
    time.sleep(0.1)
    host.gate.set()
    assert host.finish().seconds > 0.15


def test_long_message_is_answered_in_the_end_and_the_rest_left_alone(host):
    host.handle(batch(1, 2, 3), 0.1)
    host.gate.set()
    replies, *_ = host.finish()
    assert sources(replies) == [2]
    assert 3 not in host._host._contexts


def test_host_is_ready_for_the_next_batch_after_a_long_message(host):
    host.handle(batch(2, 3), 0.1)
    host.gate.set()
    host.finish()
    replies, num_begun, _ = host.handle(batch(3, 1), None)
    assert (sources(replies), num_begun) == ([3, 1], 2)


def test_next_call_waits_for_the_one_before(host):
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(host.handle, batch(2), None)
        wait_until(lambda: 2 in host._host._contexts)
        second = threads.submit(host.wait_and_handle, batch(3), 5.0)
        time.sleep(0.05)
        assert not second.done()
        host.gate.set()
        assert sources(first.result(5).replies) == [2]
        assert sources(second.result(5).replies) == [3]


def test_call_that_waits_too_long_comes_back_not_begun(host):
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(host.handle, batch(2), None)
        wait_until(lambda: 2 in host._host._contexts)
        assert host.wait_and_handle(batch(3), 0.05)[:2] == ([], 0)
        host.gate.set()
        assert sources(first.result(5).replies) == [2]
    assert 3 not in host._host._contexts


def test_call_that_began_in_time_is_answered_however_long_it_takes(host):
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(host.wait_and_handle, batch(2), 0.05)
        time.sleep(0.15)
        assert not call.done()
        host.gate.set()
        assert sources(call.result(5).replies) == [2]


def test_error_whose_text_cannot_travel_is_an_error_reply(host, caplog):
    caplog.set_level("CRITICAL", logger="fedstill.node")  # nor could it travel to pytest
    [(data, fresh)] = batch(1)
    message = decode(data)
    message.content["c"]["file"] = "größe.npz"
    replies, num_begun, _ = host.handle([(encode(message), fresh)], None)
    assert num_begun == 1
    assert "gr??" in decode(replies[0]).error.reason
