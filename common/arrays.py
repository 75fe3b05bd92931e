"""Published arrays on the wire: a manifest and the chunks that carry the rows.

An array's digest is the SHA-256 of its manifest's exact bytes; the manifest holds
size, CRC-32C and SHA-256 of every chunk. What a manifest claims is checked against
the limits below before anything is allocated for it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import google_crc32c
import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from fedstill.common.codecs import CODECS, get_codec
from fedstill.common.errors import DataError, DigestError, ExchangeError
from fedstill.protos.fedstill.v1 import labels_pb2

# gRPC's own default limit for a received message; manifests and chunks stay below it.
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
MAX_CHUNK_BYTES = 3 * 1024 * 1024
# Both ends allow one HTTP/2 frame to carry a whole chunk instead of the default 16 KiB.
MAX_FRAME_BYTES = 1024 * 1024
MAX_MANIFEST_BYTES = MAX_MESSAGE_BYTES - 1024
MAX_ARRAY_BYTES = 2**42
MAX_DIMENSIONS = 8
MAX_TEMPERATURE = 100.0
DIGEST_BYTES = 32
RAW = "raw"
# Element types that travel, little-endian; objects and structures never do.
DTYPES = {
    str(np.dtype(code)): np.dtype(code).newbyteorder("<")
    for code in ("u1", "u2", "i1", "i2", "i4", "i8", "f2", "f4", "f8")
}
Array = npt.NDArray[np.generic]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Chunk:
    """What a manifest says of one chunk's payload."""

    num_bytes: int
    crc32c: int
    sha256: bytes


@dataclass(frozen=True)
class LabelEncoding:
    """Which label set an array encodes, and how."""

    label_set_id: str
    codec: str
    temperature: float


@dataclass(frozen=True)
class ArrayManifest:
    """A manifest whose claims have been checked.

    Attributes:
        digest: SHA-256 of the manifest's bytes.
        num_bytes: Size of the manifest, bytes.
        num_rows: Rows in all chunks together.
        row_shape: Shape of one decoded row; (C,) for labels.
        dtype: Element type of the decoded rows, little-endian.
        codec: "raw" or a name of the codec registry.
        encoding: Set where the array encodes a label set.
        chunk_rows: Rows per chunk; the last may hold fewer.
        chunks: The chunks in order.
        covered_S: Set where the rows are only some of a larger set's: which (S,).
    """

    digest: bytes
    num_bytes: int
    num_rows: int
    row_shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    codec: str
    encoding: LabelEncoding | None
    chunk_rows: int
    chunks: tuple[Chunk, ...]
    covered_S: Mask | None = field(default=None, compare=False)

    @property
    def row_bytes(self) -> int:
        """Bytes of one decoded row."""
        return math.prod(self.row_shape) * self.dtype.itemsize

    @property
    def decoded_bytes(self) -> int:
        """Bytes of all decoded rows."""
        return self.num_rows * self.row_bytes

    @property
    def messages_bytes(self) -> int:
        """Bytes of all chunk messages, as a node without any cache receives them."""
        return sum(chunk_message_bytes(index, chunk) for index, chunk in enumerate(self.chunks))

    def rows(self, index: int) -> slice:
        """Rows that chunk `index` carries."""
        start = index * self.chunk_rows
        return slice(start, min(start + self.chunk_rows, self.num_rows))


def count_chunk_rows(row_bytes: int, chunk_bytes: int) -> int:
    """Chooses the rows per chunk.

    Args:
        row_bytes: Bytes of one decoded row.
        chunk_bytes: Decoded bytes that a chunk shall hold, about.

    Returns:
        At least 1.

    Raises:
        DataError: One row alone is more than a chunk may carry.
    """
    if row_bytes > MAX_CHUNK_BYTES:
        raise DataError(
            f"expected rows of at most {MAX_CHUNK_BYTES} bytes, the most that a chunk carries,"
            f" got {row_bytes}; publish smaller samples"
        )
    return max(1, min(chunk_bytes, MAX_CHUNK_BYTES) // row_bytes)


def describe_chunk(payload: bytes) -> Chunk:
    """Measures a payload for its manifest."""
    return Chunk(len(payload), google_crc32c.value(payload), hashlib.sha256(payload).digest())


def serialize_chunk(index: int, payload: bytes, chunk: Chunk) -> bytes:
    """Serialises the message that carries a payload."""
    message = labels_pb2.StreamChunksResponse(index=index, crc32c=chunk.crc32c, payload=payload)
    return message.SerializeToString()


def chunk_message_bytes(index: int, chunk: Chunk) -> int:
    """Computes the size of `serialize_chunk`'s result without the payload."""
    size = 1 + _varint_bytes(chunk.num_bytes) + chunk.num_bytes if chunk.num_bytes else 0
    size += 5 if chunk.crc32c else 0
    return size + (1 + _varint_bytes(index) if index else 0)


def _varint_bytes(value: int) -> int:
    return max(1, math.ceil(value.bit_length() / 7))


def build_manifest(
    *,
    num_rows: int,
    row_shape: Sequence[int],
    dtype: str,
    codec: str,
    encoding: LabelEncoding | None,
    chunk_rows: int,
    chunks: Iterable[Chunk],
    covered_S: Mask | None = None,
) -> bytes:
    """Writes a manifest; the arguments are the fields of `ArrayManifest`.

    Returns:
        Its bytes; their SHA-256 is the array's digest.

    Raises:
        DataError: So many chunks that the manifest exceeds what a message carries.
    """
    message = labels_pb2.Manifest(
        num_rows=num_rows,
        row_shape=row_shape,
        dtype=dtype,
        codec=codec,
        chunk_rows=chunk_rows,
        chunks=[
            labels_pb2.ChunkInfo(num_bytes=chunk.num_bytes, crc32c=chunk.crc32c, sha256=chunk.sha256)
            for chunk in chunks
        ],
    )
    if encoding is not None:
        message.encoding.label_set_id = encoding.label_set_id
        message.encoding.codec = encoding.codec
        message.encoding.temperature = encoding.temperature
    if covered_S is not None:
        message.row_mask.num_rows = len(covered_S)
        message.row_mask.bits = np.packbits(covered_S, bitorder="little").tobytes()
    content = message.SerializeToString(deterministic=True)
    if len(content) > MAX_MANIFEST_BYTES:
        raise DataError(
            f"expected a manifest of at most {MAX_MANIFEST_BYTES} bytes, got {len(content)}"
            f" for {len(message.chunks)} chunks; use larger chunks (exchange.chunk_bytes) or fewer samples"
        )
    return content


def parse_manifest(content: bytes, *, digest: bytes) -> ArrayManifest:
    """Reads a manifest and checks all that it claims.

    Args:
        content: The manifest's bytes as they came.
        digest: SHA-256 that they must have, 32 bytes.

    Returns:
        The manifest.

    Raises:
        DigestError: The bytes are not those of `digest`.
        ExchangeError: The claims are malformed, contradictory or beyond the limits.
    """
    found = hashlib.sha256(content).digest()
    if found != digest:
        raise DigestError(
            f"manifest: expected SHA-256 {digest.hex()}, got {found.hex()}; the bytes are altered"
        )
    if len(content) > MAX_MANIFEST_BYTES:
        raise _refused(f"its {len(content)} bytes exceed {MAX_MANIFEST_BYTES}")
    try:
        message = labels_pb2.Manifest.FromString(content)
    except DecodeError:
        raise _refused("it is no protobuf Manifest") from None
    _check_shape(message)
    manifest = ArrayManifest(
        digest=digest,
        num_bytes=len(content),
        num_rows=message.num_rows,
        row_shape=tuple(message.row_shape),
        dtype=DTYPES[message.dtype],
        codec=message.codec,
        encoding=_read_encoding(message),
        chunk_rows=message.chunk_rows,
        chunks=tuple(Chunk(item.num_bytes, item.crc32c, item.sha256) for item in message.chunks),
        covered_S=_read_mask(message) if message.HasField("row_mask") else None,
    )
    _check_chunks(manifest)
    return manifest


def _refused(reason: str) -> ExchangeError:
    return ExchangeError(f"manifest refused: {reason}; it was not written by this version of FedStill")


def _check_shape(message: labels_pb2.Manifest) -> None:
    if message.dtype not in DTYPES:
        raise _refused(f"element type {message.dtype!r} is none of {', '.join(DTYPES)}")
    if len(message.row_shape) > MAX_DIMENSIONS or not all(message.row_shape):
        raise _refused(f"row shape {list(message.row_shape)[:MAX_DIMENSIONS]} has an empty or too many axes")
    row_bytes = math.prod(message.row_shape) * DTYPES[message.dtype].itemsize
    if not message.num_rows or message.num_rows * row_bytes > MAX_ARRAY_BYTES:
        raise _refused(f"{message.num_rows} rows of {row_bytes} bytes are none or too many")
    if not message.chunk_rows or message.chunk_rows * row_bytes > MAX_CHUNK_BYTES:
        raise _refused(
            f"chunks of {message.chunk_rows} rows of {row_bytes} bytes exceed {MAX_CHUNK_BYTES} bytes"
        )
    if len(message.chunks) != -(-message.num_rows // message.chunk_rows):
        raise _refused(
            f"{len(message.chunks)} chunks do not hold {message.num_rows} rows by {message.chunk_rows}"
        )


def _read_encoding(message: labels_pb2.Manifest) -> LabelEncoding | None:
    if message.codec == RAW:
        if message.HasField("encoding"):
            raise _refused("a raw array encodes no label set")
        return None
    encoding = message.encoding
    if not CODECS.knows(message.codec) or message.codec != encoding.codec:
        raise _refused(f"codec {message.codec!r} is none of raw, {', '.join(CODECS)}")
    if not 0 < encoding.temperature <= MAX_TEMPERATURE:
        raise _refused(f"temperature {encoding.temperature} is not within 0 to {MAX_TEMPERATURE:g}")
    if message.dtype != "float32" or len(message.row_shape) != 1:
        raise _refused(f"labels are float32 rows of one axis, not {message.dtype} {list(message.row_shape)}")
    return LabelEncoding(encoding.label_set_id, encoding.codec, encoding.temperature)


def _read_mask(message: labels_pb2.Manifest) -> Mask:
    num_rows, bits = message.row_mask.num_rows, np.frombuffer(message.row_mask.bits, np.uint8)
    # In integers before anything is unpacked: a mask may claim any number of rows.
    if num_rows < message.num_rows or len(bits) != -(-num_rows // 8):
        raise _refused(f"a mask of {len(bits)} bytes over {num_rows} rows does not hold {message.num_rows}")
    flags = np.unpackbits(bits, bitorder="little").astype(np.bool_)
    if flags[num_rows:].any() or int(flags.sum()) != message.num_rows:
        raise _refused(f"its mask has {int(flags.sum())} rows of {num_rows}, the array {message.num_rows}")
    return flags[:num_rows]


def _check_chunks(manifest: ArrayManifest) -> None:
    for index, chunk in enumerate(manifest.chunks):
        rows = manifest.rows(index)
        num_rows = rows.stop - rows.start
        if manifest.encoding is None:
            fits = chunk.num_bytes == num_rows * manifest.row_bytes
        else:
            limit = CODECS[manifest.codec].max_payload_bytes(num_rows, manifest.row_shape[0])
            fits = 0 < chunk.num_bytes <= limit
        if not fits or len(chunk.sha256) != DIGEST_BYTES:
            raise _refused(f"chunk {index} of {chunk.num_bytes} bytes cannot hold {num_rows} rows")


def read_message(manifest: ArrayManifest, index: int, content: bytes) -> bytes:
    """Unpacks one chunk message and verifies its payload.

    Args:
        manifest: The array's manifest.
        index: Chunk that is expected.
        content: The message as it came.

    Returns:
        The payload.

    Raises:
        DigestError: It is another chunk, or its bytes are not those announced.
    """
    try:
        message = labels_pb2.StreamChunksResponse.FromString(content)
    except DecodeError:
        raise DigestError(f"chunk {index}: the message is malformed; its bytes are altered") from None
    if message.index != index:
        raise DigestError(f"chunk {index}: got chunk {message.index} in its place")
    payload: bytes = message.payload
    verify_payload(manifest, index, payload)
    return payload


def verify_payload(manifest: ArrayManifest, index: int, payload: bytes) -> None:
    """Compares a payload with what the manifest says of chunk `index`.

    Raises:
        DigestError: Its bytes are not those announced.
    """
    chunk = manifest.chunks[index]
    # CRC first: it is ten times cheaper and sees nearly every fault of a line.
    if len(payload) != chunk.num_bytes or google_crc32c.value(payload) != chunk.crc32c:
        raise DigestError(f"chunk {index}: size or CRC-32C differ from the manifest; its bytes are altered")
    if hashlib.sha256(payload).digest() != chunk.sha256:
        raise DigestError(f"chunk {index}: SHA-256 differs from the manifest; its bytes are altered")


def decode_chunk(manifest: ArrayManifest, index: int, payload: bytes) -> Array:
    """Decodes one verified payload.

    Returns:
        Rows of the manifest's shape and type.

    Raises:
        ExchangeError: The payload is not what its codec writes.
    """
    rows = manifest.rows(index)
    num_rows = rows.stop - rows.start
    if manifest.encoding is None:
        return np.frombuffer(payload, dtype=manifest.dtype).reshape(num_rows, *manifest.row_shape)
    return get_codec(manifest.codec).decode(
        payload,
        num_samples=num_rows,
        num_classes=manifest.row_shape[0],
        temperature=manifest.encoding.temperature,
    )


def digest_array(array: Array, *, chunk_bytes: int) -> bytes:
    """Computes the digest that an array has when it is published as it is.

    Args:
        array: Rows along the first axis.
        chunk_bytes: Bytes per chunk, about; the publisher's.

    Returns:
        SHA-256 of the manifest, 32 bytes.
    """
    wire_type = DTYPES[array.dtype.name]
    rows = count_chunk_rows(math.prod(array.shape[1:]) * wire_type.itemsize, chunk_bytes)
    chunks = (
        describe_chunk(array[start : start + rows].astype(wire_type, copy=False).tobytes())
        for start in range(0, len(array), rows)
    )
    manifest = build_manifest(
        num_rows=len(array),
        row_shape=array.shape[1:],
        dtype=array.dtype.name,
        codec=RAW,
        encoding=None,
        chunk_rows=rows,
        chunks=chunks,
    )
    return hashlib.sha256(manifest).digest()
