"""Arrays as the store keeps them: one folder each, ready to be sent.

A folder `arrays/<digest>` holds `manifest.pb`, `chunks.bin` (serialised chunk messages
back to back) and `offsets.npy` (where each begins, and the end). It is written beside,
synced and renamed into place, and never changes afterwards.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fedstill.common.arrays import (
    Chunk,
    LabelEncoding,
    build_manifest,
    describe_chunk,
    serialize_chunk,
)
from fedstill.common.errors import DigestError, NotPublishedError


@dataclass(frozen=True)
class StoredArray:
    """An array that can be sent as it lies.

    Attributes:
        manifest: Its manifest, byte for byte.
        num_chunks: Number of its chunk messages.
    """

    manifest: bytes
    num_chunks: int
    _messages: mmap.mmap
    _offsets: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of the manifest and all chunk messages: what a node moves."""
        return len(self.manifest) + self._offsets[-1]

    def message(self, index: int) -> bytes:
        """Returns one serialised chunk message."""
        return self._messages[self._offsets[index] : self._offsets[index + 1]]


@contextmanager
def staged_folder(root: Path) -> Iterator[Path]:
    """Yields a fresh folder below `root` that is gone afterwards unless it was renamed."""
    staging = root / ".staging"
    staging.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=staging))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sync_file(file: BinaryIO) -> None:
    """Makes what was written to an open file durable."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def settle_folder(staged: Path, final: Path) -> bool:
    """Syncs a staged folder and renames it into place.

    Returns:
        False if another process had put the same content there first.
    """
    for path in staged.iterdir():
        with path.open("rb") as file:
            sync_file(file)
    sync_folder(staged)
    staged.chmod(0o755)
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        staged.rename(final)
    except OSError:
        if not final.is_dir():
            raise
        return False
    sync_folder(final.parent)
    return True


def write_array(
    root: Path,
    payloads: Iterable[bytes],
    *,
    num_rows: int,
    row_shape: tuple[int, ...],
    dtype: str,
    codec: str,
    encoding: LabelEncoding | None,
    chunk_rows: int,
) -> bytes:
    """Writes an array from its payloads, one at a time.

    Args:
        root: The store's folder.
        payloads: Payload of each chunk, in order.
        num_rows: As the other arguments, see `fedstill.common.arrays.ArrayManifest`.
        row_shape: Shape of one decoded row.
        dtype: NumPy name of the element type.
        codec: Codec of the payloads.
        encoding: The label set that is encoded, if one is.
        chunk_rows: Rows per chunk.

    Returns:
        The array's digest.

    Raises:
        OSError: No space or no permission; nothing is left behind.
    """
    chunks: list[Chunk] = []
    offsets = [0]
    with staged_folder(root) as staged:
        with (staged / "chunks.bin").open("wb") as file:
            for index, payload in enumerate(payloads):
                chunk = describe_chunk(payload)
                offsets.append(offsets[-1] + file.write(serialize_chunk(index, payload, chunk)))
                chunks.append(chunk)
        manifest = build_manifest(
            num_rows=num_rows,
            row_shape=row_shape,
            dtype=dtype,
            codec=codec,
            encoding=encoding,
            chunk_rows=chunk_rows,
            chunks=chunks,
        )
        (staged / "manifest.pb").write_bytes(manifest)
        np.save(staged / "offsets.npy", np.asarray(offsets, dtype="<i8"))
        digest = hashlib.sha256(manifest).digest()
        settle_folder(staged, array_folder(root, digest))
    return digest


def array_folder(root: Path, digest: bytes) -> Path:
    """Names the folder of an array."""
    return root / "arrays" / digest.hex()


def open_array(root: Path, digest: bytes) -> StoredArray:
    """Maps an array into memory.

    Raises:
        NotPublishedError: The store does not hold it.
        DigestError: Its files were altered or truncated.
    """
    folder = array_folder(root, digest)
    try:
        manifest = (folder / "manifest.pb").read_bytes()
        offsets = np.load(folder / "offsets.npy", allow_pickle=False).tolist()
        with (folder / "chunks.bin").open("rb") as file:
            messages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise NotPublishedError(
            f"array {digest.hex()} is not in this label store; publish it first, or check the address"
        ) from None
    except (ValueError, EOFError):
        raise _altered(folder) from None
    if hashlib.sha256(manifest).digest() != digest or offsets[-1] != len(messages):
        raise _altered(folder)
    return StoredArray(manifest, len(offsets) - 1, messages, tuple(offsets))


def _altered(folder: Path) -> DigestError:
    return DigestError(f"{folder} was altered or truncated; delete that folder and publish its array again")
