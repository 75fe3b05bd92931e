import hashlib

import numpy as np
import pytest

from fedstill.common.arrays import (
    MAX_CHUNK_BYTES,
    Chunk,
    LabelEncoding,
    build_manifest,
    chunk_message_bytes,
    count_chunk_rows,
    decode_chunk,
    describe_chunk,
    parse_manifest,
    read_message,
    serialize_chunk,
)
from fedstill.common.codecs import CODECS
from fedstill.common.errors import DataError, DigestError, ExchangeError
from fedstill.protos.fedstill.v1 import labels_pb2

PAYLOADS = [bytes(range(12)), bytes(range(12, 18))]
ENCODING = LabelEncoding("ab" * 32, "lp8", 4.0)


def raw_manifest(**changes):
    fields = {
        "num_rows": 3,
        "row_shape": (2, 3),
        "dtype": "uint8",
        "codec": "raw",
        "encoding": None,
        "chunk_rows": 2,
        "chunks": [describe_chunk(payload) for payload in PAYLOADS],
    }
    return build_manifest(**{**fields, **changes})


def parse(content):
    return parse_manifest(content, digest=hashlib.sha256(content).digest())


def test_manifest_survives_the_wire():
    manifest = parse(raw_manifest())
    assert (manifest.num_rows, manifest.row_shape, manifest.dtype, manifest.chunk_rows) == (
        3,
        (2, 3),
        "u1",
        2,
    )
    assert manifest.rows(1) == slice(2, 3)


def test_chunks_decode_to_their_rows():
    manifest = parse(raw_manifest())
    rows = np.concatenate([decode_chunk(manifest, index, payload) for index, payload in enumerate(PAYLOADS)])
    np.testing.assert_array_equal(rows, np.arange(18, dtype=np.uint8).reshape(3, 2, 3))


def test_label_chunks_decode_through_their_codec():
    logits = np.array([[1, 2, 3], [3, 1, 0]], dtype=np.float32)
    payload = CODECS["lp8"].encode(logits, temperature=4.0)
    manifest = parse(
        raw_manifest(
            num_rows=2,
            row_shape=(3,),
            dtype="float32",
            codec="lp8",
            encoding=ENCODING,
            chunks=[describe_chunk(payload)],
        )
    )
    decoded = decode_chunk(manifest, 0, payload)
    np.testing.assert_allclose(decoded - decoded[:, :1], logits - logits[:, :1], atol=0.05)


def test_another_digest_is_refused():
    with pytest.raises(DigestError, match="expected SHA-256"):
        parse_manifest(raw_manifest(), digest=bytes(32))


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "object"},
        {"dtype": "V8"},
        {"dtype": "complex64"},
        {"num_rows": 0},
        {"num_rows": 2**60},
        {"num_rows": 5},
        {"row_shape": (2, 0)},
        {"row_shape": (1,) * 9},
        {"row_shape": (2**40, 2**40)},
        {"row_shape": (2, 4)},
        {"chunk_rows": 0},
        {"chunk_rows": MAX_CHUNK_BYTES},
        {"chunks": []},
        {"chunks": [Chunk(12, 0, b""), Chunk(6, 0, b"")]},
        {"codec": "zip"},
        {"codec": "lp8"},
        {"codec": "lp8", "encoding": ENCODING},
        {"encoding": ENCODING},
        {"codec": "lp8", "encoding": ENCODING, "dtype": "float32", "row_shape": (1,)},
        {
            "codec": "lp8",
            "encoding": LabelEncoding("a", "lp8", float("nan")),
            "dtype": "float32",
            "row_shape": (6,),
        },
    ],
)
def test_impossible_claims_are_refused(changes):
    content = raw_manifest(**changes)
    with pytest.raises(ExchangeError, match="manifest refused"):
        parse(content)


@pytest.mark.parametrize("num_all", [3, 8, 9, 17])
def test_a_row_mask_survives_the_wire(num_all):
    covered = np.zeros(num_all, bool)
    covered[[0, 1, num_all - 1]] = True
    np.testing.assert_array_equal(parse(raw_manifest(covered_S=covered)).covered_S, covered)


def test_an_array_without_a_mask_has_none():
    assert parse(raw_manifest()).covered_S is None


@pytest.mark.parametrize(
    ("num_rows", "bits"),
    [
        (3, b""),
        (3, b"\x07\x00"),
        (9, b"\x07"),
        (4, b"\x03"),
        (4, b"\x0f"),
        (4, b"\x13"),
        (4, b"\x17"),
        (2, b"\x07"),
        (2**63, b"\x07"),
        (0, b""),
    ],
)
def test_masks_that_are_not_the_arrays_are_refused(num_rows, bits):
    message = labels_pb2.Manifest.FromString(raw_manifest())
    message.row_mask.num_rows, message.row_mask.bits = num_rows, bits
    with pytest.raises(ExchangeError, match=r"manifest refused.*mask"):
        parse(message.SerializeToString())


def test_bytes_that_are_no_manifest_are_refused():
    with pytest.raises(ExchangeError, match="no protobuf"):
        parse(b"\xff" * 40)


def test_a_manifest_of_too_many_chunks_is_not_written():
    with pytest.raises(DataError, match="larger chunks"):
        raw_manifest(chunks=[describe_chunk(b"x")] * 100_000)


@pytest.mark.parametrize("index", [0, 1, 127, 128, 70_000])
@pytest.mark.parametrize("num_bytes", [1, 127, 128, 20_000])
def test_message_size_is_known_without_the_message(index, num_bytes):
    payload = b"x" * num_bytes
    chunk = describe_chunk(payload)
    assert chunk_message_bytes(index, chunk) == len(serialize_chunk(index, payload, chunk))


def test_an_intact_message_gives_its_payload():
    manifest = parse(raw_manifest())
    assert read_message(manifest, 1, serialize_chunk(1, PAYLOADS[1], manifest.chunks[1])) == PAYLOADS[1]


@pytest.mark.parametrize("position", range(20))
def test_any_flipped_byte_of_a_message_is_seen_or_harmless(position):
    manifest = parse(raw_manifest())
    message = bytearray(serialize_chunk(0, PAYLOADS[0], manifest.chunks[0]))
    if position >= len(message):
        return
    message[position] ^= 0x10
    try:
        assert read_message(manifest, 0, bytes(message)) == PAYLOADS[0]
    except DigestError as error:
        assert "chunk 0" in str(error)  # noqa: PT017


def test_a_chunk_in_anothers_place_is_refused():
    manifest = parse(raw_manifest())
    with pytest.raises(DigestError, match="got chunk 1"):
        read_message(manifest, 0, serialize_chunk(1, PAYLOADS[1], manifest.chunks[1]))


def test_a_forged_crc_does_not_pass_the_sha256():
    forged = describe_chunk(bytes(12))
    true = describe_chunk(PAYLOADS[0])
    chunks = [Chunk(12, forged.crc32c, true.sha256), describe_chunk(PAYLOADS[1])]
    with pytest.raises(DigestError, match="SHA-256"):
        read_message(parse(raw_manifest(chunks=chunks)), 0, serialize_chunk(0, bytes(12), forged))


def test_chunks_hold_at_least_one_row_and_at_most_a_message():
    assert count_chunk_rows(10, 4096) == 409
    assert count_chunk_rows(5000, 4096) == 1
    assert count_chunk_rows(1, 2**40) == MAX_CHUNK_BYTES
    with pytest.raises(DataError, match="smaller samples"):
        count_chunk_rows(MAX_CHUNK_BYTES + 1, 4096)


def test_manifest_message_is_the_documented_one():
    message = labels_pb2.Manifest.FromString(raw_manifest())
    assert message.dtype == "uint8"
    assert list(message.row_shape) == [2, 3]
