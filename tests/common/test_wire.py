"""Protobuf messages inside Flower's records, and what is checked of a node's predictions."""

import contextlib

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstill.common.errors import ExchangeError
from fedstill.common.models import measure_input
from fedstill.common.wire import (
    ARRAY,
    RECORD,
    count_packed_bytes,
    input_from_proto,
    input_to_proto,
    pack,
    predictions_from_proto,
    predictions_to_proto,
    unpack,
)
from fedstill.protos.fedstill.v1 import fleet_pb2


def record(data):
    return RecordDict({RECORD: ArrayRecord({ARRAY: Array("uint8", (len(data),), "x", data)})})


def predictions(classes, confidences):
    return fleet_pb2.Predictions(
        classes=np.array(classes, "<u2").tobytes(), confidences=np.array(confidences, "<f2").tobytes()
    )


def test_a_packed_message_comes_back():
    message = fleet_pb2.TaskRequest(run_id="r", round=3, seed=2**63, labels={"labels_digest": b"\0\xff"})
    assert unpack(pack(message), fleet_pb2.TaskRequest) == message


def test_an_empty_message_comes_back():
    assert unpack(pack(fleet_pb2.ReleaseRequest()), fleet_pb2.ReleaseRequest) == fleet_pb2.ReleaseRequest()


def test_packed_bytes_are_those_of_the_message():
    message = fleet_pb2.HelloRequest(run_id="run", version="1")
    assert count_packed_bytes(pack(message)) == message.ByteSize()


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"other": ArrayRecord()}),
        RecordDict({RECORD: ArrayRecord()}),
        RecordDict({RECORD: ConfigRecord({"message": b"abc"})}),
    ],
)
def test_another_record_is_refused(content):
    with pytest.raises(ExchangeError, match="expected a TaskRequest in the record 'fedstill'"):
        unpack(content, fleet_pb2.TaskRequest)


def test_garbage_is_refused():
    with pytest.raises(ExchangeError, match="expected a TaskRequest, got 3 bytes that do not parse"):
        unpack(record(b"\xff\xff\xff"), fleet_pb2.TaskRequest)


@settings(deadline=None)
@given(data=st.binary(max_size=60))
def test_any_bytes_parse_or_are_refused(data):
    with contextlib.suppress(ExchangeError):
        assert isinstance(unpack(record(data), fleet_pb2.TaskResponse), fleet_pb2.TaskResponse)


def test_an_input_specification_comes_back_exactly():
    x = np.random.default_rng(0).integers(0, 255, (9, 4, 5, 3), dtype=np.uint8)
    spec = measure_input(x, task="image", layout="HWC", scale=1 / 3)
    message = input_to_proto(spec, class_names=("a", "ß"), feature_names=("f",))
    assert input_from_proto(message) == spec
    assert (list(message.class_names), list(message.feature_names)) == (["a", "ß"], ["f"])


def test_predictions_are_the_likeliest_class_and_its_probability():
    message = predictions_to_proto(np.array([[0.25, 0.75], [1.0, 0.0]], np.float32))
    classes, confidences = predictions_from_proto(message, num_samples=2, num_classes=2)
    assert (classes.tolist(), confidences.tolist()) == ([1, 0], [0.75, 1.0])


def test_predictions_on_nothing_come_back():
    message = predictions_to_proto(np.zeros((0, 3), np.float32))
    assert [len(part) for part in predictions_from_proto(message, num_samples=0, num_classes=3)] == [0, 0]


@pytest.mark.parametrize(
    "message",
    [
        predictions([0, 1], [0.5, 0.5]),
        predictions([0, 1, 0], [0.5, 0.5]),
        predictions([0, 1, 0], []),
        fleet_pb2.Predictions(classes=b"\0" * 5, confidences=b"\0" * 6),
        fleet_pb2.Predictions(),
    ],
)
def test_predictions_of_another_length_are_refused(message):
    with pytest.raises(ExchangeError, match="expected predictions on 3 samples"):
        predictions_from_proto(message, num_samples=3, num_classes=2)


def test_a_class_out_of_range_is_refused():
    with pytest.raises(ExchangeError, match="expected classes below 2, got 2"):
        predictions_from_proto(predictions([0, 2], [1, 1]), num_samples=2, num_classes=2)


@pytest.mark.parametrize("confidence", [1.01, -0.01, np.nan, np.inf])
def test_a_confidence_that_is_no_probability_is_refused(confidence):
    with pytest.raises(ExchangeError, match="between 0 and 1"):
        predictions_from_proto(predictions([0, 1], [1, confidence]), num_samples=2, num_classes=2)
