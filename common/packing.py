"""A model's file in fewer bytes, and back to exactly the same file, with NumPy and zstandard.

The bytes of a model are cut where its tensors lie. Each tensor takes the shortest of:

    raw       its bytes as they are
    sparse    one bit per element that says whether it is zero, then the others
    palette   up to 16 distinct elements, then 1, 2 or 4 bits per element

What is alike is laid together (masks, indices, elements by their size, the graph
between the tensors) and compressed with zstandard. Nothing is lost: the header holds
the SHA-256 of the whole, and unpacking compares it. So it serves any format of models,
and what a packed model predicts is what the plain one does, bit for bit.

    4 bytes "FSPK", 1 byte version, u32 length of the header, the header, the streams
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zstandard

from fedstill.common.errors import ArtefactError

MAGIC = b"FSPK\x01"
_LEVEL = 19
_MAX_BYTES = 2**31
# Below this, a tensor's place in the header costs more than packing it saves.
_LEAST_BYTES = 64
_MAX_PALETTE = 16


@dataclass(frozen=True)
class Region:
    """Where a tensor lies in a model's bytes, and the size of its elements: 1, 2, 4 or 8 bytes."""

    start: int
    num_bytes: int
    item_bytes: int


def pack_bytes(content: bytes, regions: Sequence[Region]) -> bytes:
    """Packs a model's bytes.

    Args:
        content: The whole file.
        regions: Its tensors, in the order of the file, not overlapping.

    Returns:
        The packed file; the same arguments give the same bytes.
    """
    streams: dict[str, list[bytes]] = {}
    pieces: list[list[Any]] = []
    position = 0
    for region in regions:
        if region.num_bytes < _LEAST_BYTES:
            continue
        assert position <= region.start <= len(content) - region.num_bytes
        if region.start > position:
            _put(
                pieces, streams, ["gap", region.start - position], {"graph": content[position : region.start]}
            )
        end = region.start + region.num_bytes
        _put(pieces, streams, *_pack_tensor(content[region.start : end], region.item_bytes))
        position = end
    _put(pieces, streams, ["gap", len(content) - position], {"graph": content[position:]})
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True)
    packed = {name: compressor.compress(b"".join(parts)) for name, parts in streams.items()}
    header = {
        "num_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "pieces": pieces,
        "streams": [[name, len(stream)] for name, stream in packed.items()],
    }
    text = compressor.compress(json.dumps(header, separators=(",", ":")).encode())
    return b"".join([MAGIC, struct.pack("<I", len(text)), text, *packed.values()])


def _put(
    pieces: list[list[Any]], streams: dict[str, list[bytes]], piece: list[Any], parts: dict[str, bytes]
) -> None:
    pieces.append(piece)
    for name, part in parts.items():
        streams.setdefault(name, []).append(part)


def _pack_tensor(content: bytes, item_bytes: int) -> tuple[list[Any], dict[str, bytes]]:
    items = np.frombuffer(content, f"<u{item_bytes}")
    candidates: list[tuple[list[Any], dict[str, bytes]]] = [
        (["raw", item_bytes, len(items)], {f"items{item_bytes}": content})
    ]
    mask = items != 0
    num_set = int(mask.sum())
    candidates.append(
        (
            ["sparse", item_bytes, len(items), num_set],
            {"masks": np.packbits(mask).tobytes(), f"items{item_bytes}": items[mask].tobytes()},
        )
    )
    palette, indices = np.unique(items, return_inverse=True)
    if len(palette) <= _MAX_PALETTE:
        width = 1 if len(palette) <= 2 else 2 if len(palette) <= 4 else 4
        bits = (indices[:, None] >> np.arange(width)) & 1
        candidates.append(
            (
                ["palette", item_bytes, len(items), len(palette)],
                {
                    "palettes": palette.tobytes(),
                    f"indices{width}": np.packbits(bits.astype(np.uint8)).tobytes(),
                },
            )
        )
    compressor = zstandard.ZstdCompressor(level=3)
    return min(candidates, key=lambda item: sum(len(compressor.compress(part)) for part in item[1].values()))


def unpack_bytes(packed: bytes) -> bytes:
    """Unpacks what `pack_bytes` packed.

    Args:
        packed: The packed file.

    Returns:
        The model's bytes, exactly.

    Raises:
        ArtefactError: The file is truncated, altered or of another format.
    """
    try:
        content = _unpack(packed)
    except (ValueError, KeyError, TypeError, IndexError, struct.error, zstandard.ZstdError) as error:
        raise ArtefactError(f"a packed model that is truncated or altered: {error}") from None
    return content


def _unpack(packed: bytes) -> bytes:
    start = len(MAGIC) + 4
    if packed[: len(MAGIC)] != MAGIC:
        raise ValueError("it does not begin as one of this version does")
    (length,) = struct.unpack("<I", packed[len(MAGIC) : start])
    header = json.loads(_decompress(packed[start : start + length]))
    position = start + length
    streams = {}
    for name, size in header["streams"]:
        streams[name] = _Stream(_decompress(packed[position : position + size]))
        position += size
    content = b"".join(_unpack_pieces(header["pieces"], streams))
    if len(content) != header["num_bytes"] or hashlib.sha256(content).hexdigest() != header["sha256"]:
        raise ValueError("its sha256 is not that of what was packed")
    return content


def _decompress(part: bytes) -> bytes:
    size = zstandard.frame_content_size(part)
    if not 0 <= size <= _MAX_BYTES:
        raise ValueError("a stream of unknown size")
    return zstandard.ZstdDecompressor().decompress(part)


class _Stream:
    """Bytes that are taken from the front."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._position = 0

    def take(self, size: int) -> bytes:
        end = self._position + size
        if size < 0 or end > len(self._content):
            raise ValueError("a stream that ends early")
        part = self._content[self._position : end]
        self._position = end
        return part


def _unpack_pieces(pieces: Sequence[Sequence[Any]], streams: dict[str, _Stream]) -> Iterator[bytes]:
    for kind, *sizes in pieces:
        if kind == "gap":
            yield streams["graph"].take(sizes[0])
            continue
        item_bytes, count = sizes[:2]
        if item_bytes not in (1, 2, 4, 8) or not 0 <= count * item_bytes <= _MAX_BYTES:
            raise ValueError("a tensor of impossible size")
        if kind == "raw":
            yield streams[f"items{item_bytes}"].take(count * item_bytes)
        elif kind == "sparse":
            items = np.zeros(count, f"<u{item_bytes}")
            mask = np.frombuffer(streams["masks"].take(-(-count // 8)), np.uint8)
            values = np.frombuffer(streams[f"items{item_bytes}"].take(sizes[2] * item_bytes), items.dtype)
            items[np.unpackbits(mask, count=count).astype(np.bool_)] = values
            yield items.tobytes()
        elif kind == "palette":
            palette = np.frombuffer(streams["palettes"].take(sizes[2] * item_bytes), f"<u{item_bytes}")
            width = 1 if sizes[2] <= 2 else 2 if sizes[2] <= 4 else 4
            coded = np.frombuffer(streams[f"indices{width}"].take(-(-count * width // 8)), np.uint8)
            bits = np.unpackbits(coded, count=count * width).reshape(count, width)
            yield palette[(bits << np.arange(width, dtype=np.uint8)).sum(axis=1)].tobytes()
        else:
            raise ValueError(f"a tensor packed as {kind!r}")
