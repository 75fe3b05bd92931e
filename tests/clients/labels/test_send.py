import contextlib
import threading
import time

import grpc
import numpy as np
import pytest

from fedstill.clients.labels import send as send_module
from fedstill.clients.labels import upload_array
from fedstill.common.codecs import CODECS
from fedstill.common.errors import ConfigError, DataError, DigestError, ExchangeError, NotPublishedError
from fedstill.protos.fedstill.v1 import labels_pb2, labels_pb2_grpc
from fedstill.server.labels import LabelService, UploadStore

NAMES = {"run_id": "run-1", "round_number": 2, "node_id": "node-0001"}
QUICK = {"num_attempts": 3, "backoff_seconds": 0.02}
CHUNK_BYTES = 65_536


@pytest.fixture
def uploads(tmp_path):
    return UploadStore(tmp_path / "uploads")


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(0, 3, (600, 10)).astype(np.float32)


def whole(store, uploaded, node_id="node-0001"):
    return store.read(2, node_id, uploaded.digest)


def moved(calls, method="UploadLabels"):
    return sum(num_bytes for name, _, _, num_bytes in calls if name == method)


@pytest.mark.parametrize("codec", ["raw", *sorted(CODECS)])
def test_logits_arrive_decoded(service, uploads, logits, codec):
    uploaded = upload_array(service.address, logits, codec=codec, temperature=2.0, chunk_bytes=4096, **NAMES)
    rows = whole(uploads, uploaded)
    array = rows.array if codec == "raw" else rows.array - rows.array.max(1, keepdims=True)
    expected = logits if codec == "raw" else logits - logits.max(1, keepdims=True)
    if codec == "hard":
        np.testing.assert_array_equal(array.argmax(1), expected.argmax(1))
    else:
        np.testing.assert_allclose(array, expected, atol={"raw": 0, "int4": 3}.get(codec, 0.2))
    assert rows.covered_S is None


@pytest.mark.parametrize("dtype", ["u1", "i2", "i8", "f2", "f8", ">f4"])
@pytest.mark.parametrize("shape", [(60,), (20, 3), (5, 2, 3, 2)])
def test_arrays_of_every_type_and_shape_arrive(service, uploads, dtype, shape):
    array = np.arange(60).reshape(shape).astype(dtype)
    back = whole(uploads, upload_array(service.address, array, chunk_bytes=64, **NAMES)).array
    np.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype.newbyteorder("<")


def test_the_covered_rows_arrive_with_the_array(service, uploads, logits):
    covered = np.random.default_rng(1).random(600) < 0.3
    uploaded = upload_array(
        service.address, logits[covered], codec="lp8", covered_S=covered, chunk_bytes=4096, **NAMES
    )
    rows = whole(uploads, uploaded)
    np.testing.assert_array_equal(rows.covered_S, covered)
    assert rows.array.shape == (covered.sum(), 10)


def test_a_mask_costs_a_bit_per_row(service, logits):
    without = upload_array(service.address, logits, **NAMES)
    covered = np.ones(600, bool)
    masked = upload_array(service.address, logits, covered_S=covered, **NAMES)
    assert 75 <= masked.num_bytes - without.num_bytes <= 75 + 8


def test_the_bytes_are_those_that_the_service_counted(service, logits, calls):
    uploaded = upload_array(service.address, logits, codec="lp8", chunk_bytes=4096, **NAMES)
    service.stop()
    assert moved(calls) == uploaded.num_bytes
    assert 6_000 < uploaded.num_bytes < 6_500


def test_sending_again_moves_nothing(service, uploads, logits, calls):
    first = upload_array(service.address, logits, **NAMES)
    assert upload_array(service.address, logits, **NAMES) == first
    service.stop()
    assert [method for method, *_ in calls] == ["GetUpload", "UploadLabels", "GetUpload"]
    np.testing.assert_array_equal(whole(uploads, first).array, logits)


def test_a_broken_stream_goes_on_with_what_lacks(line, service, uploads, samples, calls):
    line.cut_after, line.cut_up_after, line.num_cuts = float("inf"), 500_000, 2
    uploaded = upload_array(line.address, samples, chunk_bytes=CHUNK_BYTES, **NAMES, **QUICK)
    np.testing.assert_array_equal(whole(uploads, uploaded).array, samples)
    service.stop()
    num_streams = [method for method, *_ in calls].count("UploadLabels")
    assert num_streams == 3
    manifest_bytes = uploaded.num_bytes - samples.nbytes
    # A handler that is still ending may keep one more chunk than it could tell.
    assert moved(calls) <= uploaded.num_bytes + 2 * (manifest_bytes + CHUNK_BYTES)


def test_a_service_that_restarts_goes_on_with_what_it_has(service, store, tmp_path, calls, monkeypatch):
    rows = np.random.default_rng(0).integers(0, 256, size=(32, 1_048_576), dtype=np.uint8)
    second = LabelService(
        store,
        port=int(service.address.rpartition(":")[2]),
        uploads_dir=tmp_path / "uploads",
        run_id="run-1",
        on_call=lambda *call: calls.append(call),
    )
    sent, payload = [], send_module._Outgoing.payload

    def payload_and_restart(outgoing, index):
        sent.append(index)
        if len(sent) == 32 + 25:
            (partial,) = tmp_path.glob("uploads/round-*/*/.*/payloads.bin")
            while partial.stat().st_size < 16 * 1_048_576:
                time.sleep(0.01)
            service.stop(0)
            second.start()
        return payload(outgoing, index)

    monkeypatch.setattr(send_module._Outgoing, "payload", payload_and_restart)
    with contextlib.ExitStack() as stack:
        stack.callback(second.stop)
        uploaded = upload_array(service.address, rows, **NAMES)
    np.testing.assert_array_equal(whole(UploadStore(tmp_path / "uploads"), uploaded).array, rows)
    assert len(sent) < 32 + 25 + 32 - 12


def test_a_byte_flipped_on_the_way_is_sent_again(line, uploads, samples):
    line.num_flips = 1
    uploaded = upload_array(line.address, samples, chunk_bytes=CHUNK_BYTES, **NAMES, **QUICK)
    assert line.num_flips == 0
    np.testing.assert_array_equal(whole(uploads, uploaded).array, samples)


def test_bytes_that_stay_altered_are_an_error(line, tmp_path, samples):
    line.num_flips = 1_000
    with pytest.raises(DigestError, match=r"chunk 18\b.*altered"):
        upload_array(line.address, samples, chunk_bytes=CHUNK_BYTES, **NAMES, **QUICK)
    assert [path.name[0] for path in (tmp_path / "uploads").glob("round-*/*/*")] == ["."]


def test_nodes_send_at_once(service, uploads, logits):
    results = {}

    def send(index):
        name = f"node-{index:04d}"
        results[name] = upload_array(
            service.address, logits + index, chunk_bytes=1024, **{**NAMES, "node_id": name}
        )

    senders = [threading.Thread(target=send, args=(index,)) for index in range(4)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    for index in range(4):
        name = f"node-{index:04d}"
        np.testing.assert_array_equal(whole(uploads, results[name], name).array, logits + index)


def test_another_run_is_refused(service, logits):
    with pytest.raises(ExchangeError, match="another run"):
        upload_array(service.address, logits, **{**NAMES, "run_id": "run-2"})


@pytest.mark.parametrize("node_id", ["../../evil", "/evil", ".."])
def test_a_node_id_that_leaves_the_folder_is_refused(service, logits, tmp_path, node_id):
    with pytest.raises(ExchangeError, match=r"refused.*node id"):
        upload_array(service.address, logits, **{**NAMES, "node_id": node_id})
    assert not list(tmp_path.rglob("payloads.bin"))


def test_manifests_of_impossible_claims_are_refused(service):
    header = labels_pb2.UploadLabelsHeader(
        run_id="run-1",
        round=2,
        node_id="node-0001",
        manifest=b"\xff",
        digest=bytes.fromhex("a8100ae6aa1940d0b663bb31cd466142ebbdbd5187131b92d93818987832eb89"),
    )
    with grpc.insecure_channel(service.address) as channel:
        stub = labels_pb2_grpc.LabelServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.UploadLabels(iter([labels_pb2.UploadLabelsRequest(header=header)]))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "manifest refused" in caught.value.details()


def test_a_newer_array_of_the_round_replaces_the_older(service, uploads, logits):
    first = upload_array(service.address, logits, **NAMES)
    second = upload_array(service.address, logits + 1, **NAMES)
    np.testing.assert_array_equal(whole(uploads, second).array, logits + 1)
    with pytest.raises(NotPublishedError):
        whole(uploads, first)


def test_arrays_land_beside_the_files_of_nodes(store, tmp_path, logits):
    with LabelService(store, uploads_dir=tmp_path / "run" / "nodes") as running:
        uploaded = upload_array(running.address, logits, **NAMES)
    np.testing.assert_array_equal(whole(UploadStore(tmp_path / "run" / "uploads"), uploaded).array, logits)


@pytest.mark.parametrize(
    ("array", "options", "reason"),
    [
        (np.zeros((0, 3), np.float32), {}, "filled array"),
        (np.array(["a"], dtype=object), {}, "filled array"),
        (np.float32(1), {}, "filled array"),
        (np.full((2, 2), np.nan, np.float32), {}, "finite"),
        (np.zeros((2, 2)), {"codec": "lp8"}, "float32 logits"),
        (np.zeros((2, 2, 2), np.float32), {"codec": "fp16"}, "float32 logits"),
        (np.zeros((2, 2)), {"covered_S": np.ones(3, bool)}, "mask"),
        (np.zeros((2, 2)), {"covered_S": np.ones(2)}, "mask"),
        (np.zeros((2, 2)), {"covered_S": np.ones((2, 1), bool)}, "mask"),
    ],
)
def test_arrays_that_do_not_travel_are_refused(array, options, reason):
    with pytest.raises(DataError, match=reason):
        upload_array("127.0.0.1:9", np.asarray(array), **options, **NAMES)


@pytest.mark.parametrize("options", [{"codec": "lp9"}, {"codec": "lp8", "temperature": 0.0}])
def test_impossible_encodings_are_refused(logits, options):
    with pytest.raises(ConfigError):
        upload_array("127.0.0.1:9", logits, **options, **NAMES)


def test_a_service_out_of_reach_is_named(logits):
    with pytest.raises(ExchangeError, match=r"127\.0\.0\.1:9 "):
        upload_array("127.0.0.1:9", logits, **NAMES, **QUICK)


def test_a_silent_line_ends_with_an_error(line, logits):
    line.silent.set()
    with pytest.raises(ExchangeError, match="failed while uploading"):
        upload_array(line.address, logits, timeout_seconds=0.2, **NAMES, **QUICK)
