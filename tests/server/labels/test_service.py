import hashlib
import socket

import grpc
import numpy as np
import pytest

from fedstill.common.arrays import parse_manifest, read_message
from fedstill.common.errors import UsageError
from fedstill.protos.fedstill.v1 import labels_pb2, labels_pb2_grpc
from fedstill.server.labels import LabelService, LabelStore


@pytest.fixture
def store(tmp_path):
    return LabelStore(tmp_path / "labels")


@pytest.fixture
def calls():
    return []


@pytest.fixture
def service(store, tmp_path, calls):
    with LabelService(
        store, uploads_dir=tmp_path / "uploads", run_id="run-1", on_call=lambda *call: calls.append(call)
    ) as running:
        yield running


@pytest.fixture
def stub(service):
    with grpc.insecure_channel(service.address) as channel:
        yield labels_pb2_grpc.LabelServiceStub(channel)


@pytest.fixture
def label_set(store):
    logits = np.random.default_rng(0).normal(size=(600, 10)).astype(np.float32)
    return store.publish_labels(logits, teacher_digest="t", public_digest="p", chunk_bytes=4096)


def encoding(label_set_id, codec="lp8", temperature=2.0):
    return labels_pb2.GetManifestRequest(
        encoding=labels_pb2.LabelEncoding(label_set_id=label_set_id, codec=codec, temperature=temperature)
    )


def status(call):
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


def test_the_address_names_the_bound_port(service):
    host, _, port = service.address.rpartition(":")
    assert host == "127.0.0.1"
    assert int(port) > 0


def test_a_manifest_comes_byte_for_byte(store, stub):
    digest = store.publish_samples(np.arange(100))
    content = stub.GetManifest(labels_pb2.GetManifestRequest(digest=digest)).manifest
    assert hashlib.sha256(content).digest() == digest


def test_labels_are_encoded_on_demand(store, stub, label_set):
    content = stub.GetManifest(encoding(label_set.id)).manifest
    known = store.encode(label_set.id, codec="lp8", temperature=2.0)
    assert hashlib.sha256(content).digest() == known.digest


def test_the_generated_stub_reads_the_raw_stream(store, stub):
    digest = store.publish_samples(np.arange(4096), chunk_bytes=4096)
    manifest = parse_manifest(store.array(digest).manifest, digest=digest)
    messages = list(stub.StreamChunks(labels_pb2.StreamChunksRequest(digest=digest)))
    assert [message.index for message in messages] == list(range(8))
    payload = read_message(manifest, 3, messages[3].SerializeToString())
    np.testing.assert_array_equal(np.frombuffer(payload, "<i8"), np.arange(3 * 512, 4 * 512))


def test_a_stream_begins_at_the_wanted_chunk(store, stub):
    digest = store.publish_samples(np.arange(4096), chunk_bytes=4096)
    messages = stub.StreamChunks(labels_pb2.StreamChunksRequest(digest=digest, start_chunk=6))
    assert [message.index for message in messages] == [6, 7]


def test_what_another_process_publishes_is_served(store, stub):
    digest = LabelStore(store.root).publish_samples(np.arange(7))
    assert len(list(stub.StreamChunks(labels_pb2.StreamChunksRequest(digest=digest)))) == 1


def test_unknown_digests_are_not_found(stub):
    code, details = status(lambda: stub.GetManifest(labels_pb2.GetManifestRequest(digest=bytes(32))))
    assert code is grpc.StatusCode.NOT_FOUND
    assert "not in this label store" in details


def test_unknown_label_sets_are_not_found(stub):
    assert status(lambda: stub.GetManifest(encoding("../sets")))[0] is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("codec", "temperature"), [("lp9", 1.0), ("lp8", 0.0), ("lp8", float("nan")), ("", 1.0)]
)
def test_bad_encodings_are_invalid(stub, label_set, codec, temperature):
    code, _ = status(lambda: stub.GetManifest(encoding(label_set.id, codec, temperature)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("digest", [b"", b"short"])
def test_digests_of_wrong_length_are_invalid(stub, digest):
    code, _ = status(lambda: list(stub.StreamChunks(labels_pb2.StreamChunksRequest(digest=digest))))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


def test_a_start_beyond_the_end_is_invalid(store, stub):
    request = labels_pb2.StreamChunksRequest(digest=store.publish_samples(np.arange(7)), start_chunk=1)
    assert status(lambda: list(stub.StreamChunks(request)))[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_strangers_cannot_fill_the_disk_with_encodings(stub, label_set):
    for index in range(32):
        stub.GetManifest(encoding(label_set.id, "fp16", 1.0 + index))
    code, details = status(lambda: stub.GetManifest(encoding(label_set.id, "fp16", 99.0)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "on demand" in details
    stub.GetManifest(encoding(label_set.id, "fp16", 1.0))


def test_each_call_is_told_with_code_and_bytes(store, service, stub, calls):
    digest = store.publish_samples(np.arange(100))
    list(stub.StreamChunks(labels_pb2.StreamChunksRequest(digest=digest)))
    status(lambda: stub.GetManifest(labels_pb2.GetManifestRequest(digest=bytes(32))))
    service.stop()
    (stream, stream_code, seconds, num_bytes), (manifest, manifest_code, _, _) = calls
    assert (stream, stream_code, manifest, manifest_code) == (
        "StreamChunks",
        "OK",
        "GetManifest",
        "NOT_FOUND",
    )
    assert num_bytes > 800
    assert seconds >= 0


def test_a_taken_port_is_a_usage_error(store, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf"port {port} .*exchange\.port"):
            LabelService(store, port=port, uploads_dir=tmp_path).start()


def test_a_foreign_host_is_a_usage_error(store, tmp_path):
    with pytest.raises(UsageError, match=r"exchange\.host"):
        LabelService(store, host="192.0.2.1", uploads_dir=tmp_path).start()


def test_a_stopped_service_frees_its_port(store, tmp_path):
    with LabelService(store, uploads_dir=tmp_path) as first:
        port = int(first.address.rpartition(":")[2])
    with LabelService(store, port=port, uploads_dir=tmp_path) as second:
        assert second.address == first.address
