import hashlib
import time

import numpy as np
import pytest

from fedstill.common.arrays import LabelEncoding, build_manifest, describe_chunk
from fedstill.common.errors import DigestError, ExchangeError, NotPublishedError, UsageError
from fedstill.protos.fedstill.v1 import labels_pb2
from fedstill.server.labels import UploadStore

NAMES = {"run_id": "run-1", "round": 3, "node_id": "node-0001"}
ROWS = np.arange(12, dtype=np.float32).reshape(6, 2)


@pytest.fixture
def store(tmp_path):
    return UploadStore(tmp_path / "uploads")


def describe(rows, **changes):
    fields = {
        "num_rows": len(rows),
        "row_shape": rows.shape[1:],
        "dtype": rows.dtype.name,
        "codec": "raw",
        "encoding": None,
        "chunk_rows": 2,
        "chunks": [describe_chunk(payload) for payload in payloads(rows)],
    }
    return build_manifest(**{**fields, **changes})


def payloads(rows):
    return [rows[start : start + 2].tobytes() for start in range(0, len(rows), 2)]


def digest_of(manifest):
    return hashlib.sha256(manifest).digest()


def head(manifest, digest=None, **names):
    digest = digest_of(manifest) if digest is None else digest
    header = labels_pb2.UploadLabelsHeader(manifest=manifest, digest=digest, **{**NAMES, **names})
    return labels_pb2.UploadLabelsRequest(header=header)


def carry(index, payload):
    return labels_pb2.UploadLabelsRequest(
        chunk=labels_pb2.UploadLabelsChunk(
            index=index, payload=payload, crc32c=describe_chunk(payload).crc32c
        )
    )


def whole(rows, **names):
    return [
        head(describe(rows), **names),
        *(carry(index, payload) for index, payload in enumerate(payloads(rows))),
    ]


def receive(store, parts):
    return store.receive(iter(parts), run_id="run-1")


def arrived(store, rows, **names):
    request = labels_pb2.GetUploadRequest(digest=digest_of(describe(rows)), **{**NAMES, **names})
    return store.find_chunks(request, run_id="run-1")


def read(store, rows, round_number=3, node_id="node-0001"):
    return store.read(round_number, node_id, digest_of(describe(rows)))


def test_a_whole_array_is_read_back(store):
    assert receive(store, whole(ROWS))
    np.testing.assert_array_equal(read(store, ROWS).array, ROWS)
    assert arrived(store, ROWS) is None


def test_chunks_may_come_in_any_order_and_over_several_streams(store):
    header, first, second, third = whole(ROWS)
    assert not receive(store, [header, third])
    assert arrived(store, ROWS) == [2]
    assert receive(store, [header, second, first])
    np.testing.assert_array_equal(read(store, ROWS).array, ROWS)


def test_a_partial_upload_is_invisible(store):
    assert not receive(store, whole(ROWS)[:-1])
    with pytest.raises(NotPublishedError, match="not sent all of it"):
        read(store, ROWS)


def test_what_never_came_has_no_chunks(store):
    assert arrived(store, ROWS) == []


def test_a_stream_of_the_header_alone_finishes_what_is_there(store):
    partial = store.root / "round-00003/node-0001" / f".{digest_of(describe(ROWS)).hex()}"
    receive(store, whole(ROWS)[:1])
    (partial / "payloads.bin").write_bytes(ROWS.tobytes())
    assert receive(store, whole(ROWS)[:1])
    np.testing.assert_array_equal(read(store, ROWS).array, ROWS)


def test_chunks_damaged_while_they_waited_are_asked_for_again(store):
    receive(store, whole(ROWS)[:3])
    (file,) = store.root.glob("round-*/*/.*/payloads.bin")
    file.write_bytes(b"\1" + file.read_bytes()[1:])
    assert arrived(store, ROWS) == [1]


def test_a_manifest_damaged_while_it_waited_begins_anew(store):
    receive(store, whole(ROWS)[:3])
    (file,) = store.root.glob("round-*/*/.*/manifest.pb")
    file.write_bytes(b"")
    assert arrived(store, ROWS) == []
    assert receive(store, whole(ROWS))
    np.testing.assert_array_equal(read(store, ROWS).array, ROWS)


def test_sending_again_changes_nothing(store):
    receive(store, whole(ROWS))
    before = {path: path.stat().st_mtime_ns for path in store.root.glob("round-*/**/*")}
    assert receive(store, whole(ROWS))
    assert {path: path.stat().st_mtime_ns for path in store.root.glob("round-*/**/*")} == before


def test_the_newest_whole_array_replaces_the_older(store):
    receive(store, whole(ROWS))
    time.sleep(0.01)
    receive(store, whole(ROWS + 1))
    np.testing.assert_array_equal(read(store, ROWS + 1).array, ROWS + 1)
    with pytest.raises(NotPublishedError, match="another one since"):
        read(store, ROWS)


def test_an_upload_that_is_not_whole_replaces_nothing(store):
    receive(store, whole(ROWS))
    receive(store, whole(ROWS + 1)[:-1])
    np.testing.assert_array_equal(read(store, ROWS).array, ROWS)


def test_a_node_has_one_unfinished_upload_at_most(store):
    for offset in range(3):
        receive(store, whole(ROWS + offset)[:-1])
    assert arrived(store, ROWS) == []
    assert arrived(store, ROWS + 2) == [0, 1]


def test_a_stream_given_up_for_a_newer_one_is_told(store):
    def overtaken():
        yield from whole(ROWS)[:2]
        receive(store, whole(ROWS + 1)[:2])
        yield from whole(ROWS)[2:]

    with pytest.raises(UsageError, match="given up"):
        receive(store, overtaken())
    assert receive(store, whole(ROWS + 1))


def test_two_streams_of_the_same_array_both_end_well(store):
    def overtaken():
        yield from whole(ROWS)[:2]
        assert receive(store, whole(ROWS))
        yield from whole(ROWS)[2:]

    assert receive(store, overtaken())
    np.testing.assert_array_equal(read(store, ROWS).array, ROWS)


def test_rounds_and_nodes_are_kept_apart(store):
    receive(store, whole(ROWS))
    receive(store, whole(ROWS + 1, round=4))
    receive(store, whole(ROWS + 2, node_id="node-0002"))
    np.testing.assert_array_equal(read(store, ROWS).array, ROWS)
    np.testing.assert_array_equal(read(store, ROWS + 1, 4).array, ROWS + 1)
    np.testing.assert_array_equal(read(store, ROWS + 2, 3, "node-0002").array, ROWS + 2)


def test_old_rounds_are_forgotten(store):
    receive(store, whole(ROWS))
    receive(store, whole(ROWS, round=4))
    store.forget(4)
    with pytest.raises(NotPublishedError):
        read(store, ROWS)
    np.testing.assert_array_equal(read(store, ROWS, 4).array, ROWS)


def test_forgetting_before_anything_came_is_no_error(store):
    store.forget(1)


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"\1" + content[1:]])
@pytest.mark.parametrize("name", ["manifest.pb", "payloads.bin"])
def test_altered_files_are_seen(store, name, damage):
    receive(store, whole(ROWS))
    (file,) = store.root.glob(f"round-*/*/*/{name}")
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DigestError, match="delete that folder"):
        read(store, ROWS)


def test_an_altered_chunk_is_refused_and_those_before_it_stay(store):
    header, first, second, _ = whole(ROWS)
    second.chunk.payload = bytes(16)
    with pytest.raises(DigestError, match="chunk 1"):
        receive(store, [header, first, second])
    assert arrived(store, ROWS) == [0]


def test_an_altered_manifest_is_refused(store):
    with pytest.raises(DigestError, match="manifest"):
        receive(store, [head(describe(ROWS), digest=bytes(32))])


@pytest.mark.parametrize("name", ["", "..", "../node", "a/b", ".hidden", "n\n", "x" * 200])
@pytest.mark.parametrize("kind", ["run_id", "node_id"])
def test_names_that_are_no_names_are_refused(store, kind, name):
    with pytest.raises(UsageError, match=kind.replace("_", " ")):
        receive(store, whole(ROWS, **{kind: name}))
    with pytest.raises(UsageError, match=kind.replace("_", " ")):
        arrived(store, ROWS, **{kind: name})
    assert not store.root.exists()


def test_another_run_is_refused(store):
    with pytest.raises(UsageError, match="another run"):
        receive(store, whole(ROWS, run_id="run-2"))
    with pytest.raises(UsageError, match="another run"):
        arrived(store, ROWS, run_id="run-2")


@pytest.mark.parametrize("digest", [b"", b"short", bytes(33)])
def test_digests_of_wrong_length_are_refused(store, digest):
    with pytest.raises(UsageError, match="digest"):
        receive(store, [head(describe(ROWS), digest=digest)])
    with pytest.raises(UsageError, match="digest"):
        store.read(3, "node-0001", digest)


@pytest.mark.parametrize("node_id", ["../../etc", "..", ""])
def test_reading_takes_no_path(store, node_id):
    with pytest.raises(UsageError, match="node id"):
        store.read(3, node_id, bytes(32))


def test_too_large_an_array_is_refused_before_it_comes(store):
    chunk = describe_chunk(b"x")
    rows = 2**21
    claims = build_manifest(
        num_rows=513 * rows,
        row_shape=(),
        dtype="uint8",
        codec="raw",
        encoding=None,
        chunk_rows=rows,
        chunks=[type(chunk)(rows, 0, chunk.sha256)] * 513,
    )
    with pytest.raises(UsageError, match="at most 1073741824 bytes"):
        receive(store, [head(claims)])
    assert not store.root.exists()


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [carry(0, payloads(ROWS)[0])],
        [*whole(ROWS)[:2], carry(0, payloads(ROWS)[0])],
        [*whole(ROWS)[:2], carry(3, payloads(ROWS)[0])],
        [head(describe(ROWS)), head(describe(ROWS))],
        [head(describe(ROWS)), labels_pb2.UploadLabelsRequest()],
    ],
)
def test_streams_that_are_none_are_refused(store, parts):
    with pytest.raises(UsageError, match="upload"):
        receive(store, parts)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(store, value):
    rows = ROWS.copy()
    rows[5, 1] = value
    with pytest.raises(ExchangeError, match="finite values, got NaN or infinity in chunk 2"):
        receive(store, whole(rows))
    with pytest.raises(NotPublishedError):
        read(store, rows)


def test_payloads_that_no_codec_wrote_are_refused(store):
    payload = b"\xff" * 12
    claims = describe(
        ROWS[:2],
        codec="lp8",
        encoding=LabelEncoding("", "lp8", 2.0),
        chunks=[describe_chunk(payload)],
    )
    with pytest.raises(ExchangeError, match="codec lp8"):
        receive(store, [head(claims), carry(0, payload)])
