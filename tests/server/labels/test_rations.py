"""One node that holds all it can of a label service, and the others that go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest

from fedstill.clients.labels import Transport
from fedstill.protos.fedstill.v1 import labels_pb2
from fedstill.server.labels import rations
from fedstill.server.labels.service import SERVICE_NAME

NUM_STREAMS = 300


@contextmanager
def silent_streams(
    address: str, bundle, *, number: int, method: str = "UploadLabels"
) -> Iterator[list[grpc.Future]]:
    """Opens calls of one node that say nothing."""
    over = threading.Event()

    def say_nothing() -> Iterator[labels_pb2.UploadLabelsRequest]:
        while not over.wait(3600):
            yield labels_pb2.UploadLabelsRequest()

    channels = [Transport(bundle).open(address) for _ in range(3)]
    try:
        calls = []
        for index in range(number):
            upload = channels[index % len(channels)].stream_unary(
                f"/{SERVICE_NAME}/{method}",
                request_serializer=labels_pb2.UploadLabelsRequest.SerializeToString,
                response_deserializer=labels_pb2.UploadLabelsResponse.FromString,
            )
            calls.append(upload.future(say_nothing()))
        yield calls
    finally:
        over.set()
        for channel in channels:
            channel.close()


# A question that is opened and not asked holds as much as an upload.
@pytest.mark.parametrize("method", ["UploadLabels", "UploadArtefact", "GetManifest", "GetUpload"])
def test_three_hundred_silent_streams_of_one_node_keep_nobody_waiting(federation, method):
    kitchen, attic = federation.enrol("kitchen"), federation.enrol("attic")
    federation.open_round(1, "kitchen", "attic")
    with silent_streams(federation.address, kitchen, number=NUM_STREAMS, method=method) as calls:
        seconds = []
        for _ in range(20):
            begin = time.monotonic()
            federation.fetch(attic)
            seconds.append(time.monotonic() - begin)
        codes = [call.code() for call in calls if call.done()]
        # Three hundred lines about them would be another way to drown the rest.
        assert federation.refused == []
    assert sum(one < 1 for one in seconds) >= 19
    assert len(codes) >= NUM_STREAMS - rations.MAX_CALLS
    assert set(codes) == {grpc.StatusCode.RESOURCE_EXHAUSTED}


@pytest.mark.parametrize("method", ["UploadLabels", "GetManifest"])
def test_a_silent_stream_is_ended(federation, monkeypatch, method):
    monkeypatch.setattr(rations, "HEADER_SECONDS", 0.5)
    kitchen = federation.enrol("kitchen")
    federation.open_round(1, "kitchen")
    with silent_streams(federation.address, kitchen, number=rations.MAX_CALLS, method=method) as calls:
        for call in calls:
            assert call.exception(timeout=10).code() is grpc.StatusCode.CANCELLED
        federation.fetch(kitchen)  # it has room again


@pytest.mark.parametrize("method", ["UploadLabels", "GetManifest"])
def test_who_does_not_belong_to_the_run_is_not_read(federation, method):
    stranger = federation.enrol("stranger")
    federation.open_round(1, "kitchen")
    with silent_streams(federation.address, stranger, number=1, method=method) as (call,):
        error = call.exception(timeout=10)
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "stranger does not belong to run run-1" in error.details()


def test_work_of_ours_that_takes_long_is_not_taken_for_silence(monkeypatch):
    class Call:
        ended = False

        def cancel(self) -> None:
            self.ended = True

    monkeypatch.setattr(rations, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(rations, "SILENCE_SECONDS", 0.05)
    kept, looked_after = rations.Rations(), Call()
    kept.start()
    try:
        with kept.admit("kitchen", looked_after):
            time.sleep(0.2)  # as while labels are encoded for it
            assert not looked_after.ended
        with kept.admit("kitchen", looked_after) as pulse:
            assert list(pulse.follow(range(3))) == [0, 1, 2]
            time.sleep(0.2)  # all has come; what is done with it is ours
            assert not looked_after.ended
        with kept.admit("kitchen", looked_after) as pulse:
            next(pulse.follow(iter(range(3))))
            time.sleep(0.2)
            assert looked_after.ended
    finally:
        kept.stop()


@pytest.mark.parametrize("caller", ["kitchen", ""])
def test_only_those_with_a_name_are_rationed(caller):
    kept = rations.Rations()
    held = [kept.admit(caller, None) for _ in range(rations.MAX_CALLS)]
    for one in held:
        one.__enter__()
    with kept.admit("attic", None):
        pass
    if caller:
        with (
            pytest.raises(rations.BusyError, match="kitchen has 4 calls open already"),
            kept.admit(caller, None),
        ):
            pass
        held[0].__exit__(None, None, None)
    with kept.admit(caller, None):
        pass
