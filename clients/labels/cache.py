"""The label cache: decoded arrays on this machine's disk, shared by its processes.

    <digest>/manifest.pb   as the service sent it
    <digest>/rows.npy      the decoded rows, complete; memory-mapped by readers
    <digest>/rows.part     the same while it grows
    <digest>/rows.crc32c   CRC-32C of the decoded rows of each chunk, as far as they are written
    <digest>/lock          held (flock) by the one process that downloads; it ends with its holder

With a bound on its size, the arrays that were used longest ago make room for new ones;
their lock files stay, for another process may be waiting on one.

Only chunks whose CRC stands in `rows.crc32c` and fits the bytes count as held, so
whatever a killed process, a full disk or a power cut leaves behind is resumed or thrown
away, and nothing needs to be synced.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import logging
import os
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np

from fedstill.clients.labels.channels import Channels, RetryPolicy
from fedstill.clients.labels.fetch import Source, fetch_chunks, fetch_manifest
from fedstill.clients.labels.transport import Transport
from fedstill.common.arrays import DIGEST_BYTES, Array, ArrayManifest, decode_chunk, parse_manifest
from fedstill.common.errors import DigestError, ExchangeError
from fedstill.common.files import write_bytes_atomically

_CRC = struct.Struct("<I")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FetchedArray:
    """An array that lies on this machine.

    Attributes:
        array: The decoded rows, a read-only memory map; for labels float32 logits (S, C).
        manifest_bytes: Size of the manifest.
        chunk_bytes: Size of all chunk messages; with the manifest's, what a node
            alone on its device would move.
        wire_bytes: What really crossed the wire in this call; 0 on a hit.
    """

    array: Array
    manifest_bytes: int
    chunk_bytes: int
    wire_bytes: int


class LabelCache:
    """Fetches arrays once per machine and keeps them; safe between threads and processes.

    Args:
        root: The cache's folder, shared by the processes of this machine.
        max_bytes: Arrays kept, bytes; 0 is no limit. An array that alone is larger is kept
            until the next one comes.
        num_attempts: Failures in a row without progress that end a fetch.
        backoff_seconds: Pause after the first failure; it doubles up to 5 s.
        transport: How services are called.
    """

    def __init__(
        self,
        root: Path,
        *,
        max_bytes: int = 0,
        num_attempts: int = 8,
        backoff_seconds: float = 0.1,
        transport: Transport = Transport(),  # noqa: B008 it is frozen
    ) -> None:
        self._root = root
        self._max_bytes = max_bytes
        self._num_attempts = num_attempts
        self._backoff_seconds = backoff_seconds
        self._transport = transport
        self._channels = Channels(transport)
        self._verified: dict[bytes, tuple[int, int, int]] = {}

    def fetch_array(self, address: str, digest: bytes, *, timeout_seconds: float = 60.0) -> FetchedArray:
        """Returns an array, fetching what this machine lacks of it.

        Args:
            address: host:port of a label service that serves it.
            digest: SHA-256 of its manifest, 32 bytes.
            timeout_seconds: Longest silence on a stream before it is resumed.

        Returns:
            The decoded rows and what they cost.

        Raises:
            NotPublishedError: The service does not hold the array.
            DigestError: Bytes that are not those announced, several times over.
            ExchangeError: The service stayed out of reach, its claims were refused, or
                the cache's disk is full or cannot be written.
        """
        if len(digest) != DIGEST_BYTES:
            raise ExchangeError(f"label cache: expected a digest of {DIGEST_BYTES} bytes, got {len(digest)}")
        retry = RetryPolicy(self._num_attempts, self._backoff_seconds, timeout_seconds)
        folder = self._root / digest.hex()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder / "lock"):
                channel = self._channels.get(address)
                fetched = self._fetch_locked(folder, Source(channel, address, digest, retry, self._transport))
                os.utime(folder / "manifest.pb")  # when it was last used
            if fetched.wire_bytes and self._max_bytes:
                make_room(self._root, self._max_bytes, keep=folder)
            return fetched
        except ExchangeError:
            self._channels.forget(address)
            raise
        except OSError as error:
            raise _explain_disk(error, self._root) from None

    def close(self) -> None:
        """Closes the connections of this process; the files stay."""
        self._channels.close()

    def _fetch_locked(self, folder: Path, source: Source) -> FetchedArray:
        manifest, wire_bytes = _hold_manifest(folder / "manifest.pb", source)
        rows = _Rows(folder, manifest)
        if not self._is_held(rows):
            wire_bytes += rows.complete(source)
            self._verified[manifest.digest] = rows.fingerprint()
        array: Array = np.load(rows.path, mmap_mode="r", allow_pickle=False)
        return FetchedArray(array, manifest.num_bytes, manifest.messages_bytes, wire_bytes)

    def _is_held(self, rows: _Rows) -> bool:
        """Says whether the rows lie here unharmed; they are read through once per process."""
        if not rows.path.exists():
            return False
        fingerprint = rows.fingerprint()
        if self._verified.get(rows.manifest.digest) == fingerprint:
            return True
        if rows.path.stat().st_size == rows.total_bytes and rows.count_held(rows.path) == len(
            rows.manifest.chunks
        ):
            self._verified[rows.manifest.digest] = fingerprint
            return True
        _log.warning("%s was altered or truncated; it is fetched again", rows.path)
        rows.discard()
        return False


def make_room(root: Path, max_bytes: int, *, keep: Path) -> None:
    """Removes the arrays that were used longest ago until a cache is small enough.

    Processes that have mapped a removed array keep what they mapped; one that
    another process is fetching is left alone.

    Args:
        root: The cache's folder.
        max_bytes: Size to come down to.
        keep: Folder of an array that stays in any case.
    """
    held: list[tuple[float, int, Path]] = []
    for folder in root.iterdir():
        with contextlib.suppress(OSError):  # another process makes room as well
            size = sum(path.stat().st_size for path in folder.iterdir())
            held.append(((folder / "manifest.pb").stat().st_mtime, size, folder))
    total = sum(size for _, size, _ in held)
    for _, size, folder in sorted(held):
        if total <= max_bytes:
            return
        if folder == keep:
            continue
        with (folder / "lock").open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            for path in folder.iterdir():
                if path.name != "lock":
                    path.unlink(missing_ok=True)
        total -= size


class _Rows:
    """The decoded rows of one array on disk; its lock is held by the caller."""

    def __init__(self, folder: Path, manifest: ArrayManifest) -> None:
        self.manifest = manifest
        self.path = folder / "rows.npy"
        self._part = folder / "rows.part"
        self._crcs = folder / "rows.crc32c"
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header,
            {
                "descr": np.lib.format.dtype_to_descr(manifest.dtype),
                "fortran_order": False,
                "shape": (manifest.num_rows, *manifest.row_shape),
            },
        )
        self._header = header.getvalue()
        self.total_bytes = len(self._header) + manifest.decoded_bytes

    def fingerprint(self) -> tuple[int, int, int]:
        """Tells this file from any later one at its place."""
        status = self.path.stat()
        return status.st_ino, status.st_size, status.st_mtime_ns

    def count_held(self, path: Path) -> int:
        """Counts the leading chunks whose rows in `path` fit their CRC."""
        try:
            crcs = self._crcs.read_bytes()
            with path.open("rb") as file:
                if file.read(len(self._header)) != self._header:
                    return 0
                for index in range(min(len(crcs) // _CRC.size, len(self.manifest.chunks))):
                    content = file.read(self._chunk_bytes(index))
                    (crc,) = _CRC.unpack_from(crcs, index * _CRC.size)
                    if len(content) != self._chunk_bytes(index) or google_crc32c.value(content) != crc:
                        return index
        except FileNotFoundError:
            return 0
        return min(len(crcs) // _CRC.size, len(self.manifest.chunks))

    def discard(self) -> None:
        """Removes all rows; readers that mapped them keep what they mapped."""
        for path in (self.path, self._part, self._crcs):
            path.unlink(missing_ok=True)

    def complete(self, source: Source) -> int:
        """Fetches the chunks that lack and puts the rows into place; returns the bytes on the wire."""
        start_chunk = self.count_held(self._part)
        position: int = len(self._header) + sum(self._chunk_bytes(index) for index in range(start_chunk))
        self._check_space(self.total_bytes - position, source)
        wire_bytes = 0
        try:
            with _open_raw(self._part) as part, _open_raw(self._crcs) as crcs:
                part.truncate(position)
                crcs.truncate(start_chunk * _CRC.size)
                part.seek(0)
                _write(part, self._header)
                part.seek(position)
                crcs.seek(0, os.SEEK_END)

                def keep(index: int, payload: bytes) -> None:
                    content = decode_chunk(self.manifest, index, payload).tobytes()
                    _write(part, content)
                    _write(crcs, _CRC.pack(google_crc32c.value(content)))

                if start_chunk < len(self.manifest.chunks):
                    wire_bytes = fetch_chunks(source, self.manifest, start_chunk=start_chunk, keep=keep)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                self.discard()
            raise
        self._part.replace(self.path)
        return wire_bytes

    def _chunk_bytes(self, index: int) -> int:
        rows = self.manifest.rows(index)
        num_rows: int = rows.stop - rows.start
        return num_rows * self.manifest.row_bytes

    def _check_space(self, needed_bytes: int, source: Source) -> None:
        free_bytes = shutil.disk_usage(self.path.parent).free
        if needed_bytes > free_bytes:
            raise ExchangeError(
                f"{source.action}: expected {needed_bytes} bytes of free space in {self.path.parent.parent},"
                f" found {free_bytes}; free some or set exchange.cache_dir to another disk"
            )


def _hold_manifest(path: Path, source: Source) -> tuple[ArrayManifest, int]:
    with contextlib.suppress(FileNotFoundError, DigestError):
        return parse_manifest(path.read_bytes(), digest=source.digest), 0
    content, manifest, wire_bytes = fetch_manifest(source)
    write_bytes_atomically(path, content)
    return manifest, wire_bytes


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        # flock, not lockf: it holds between threads too, and ends with its holder however that ends.
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _open_raw(path: Path) -> io.FileIO:
    """Opens for reading and writing, made if it lacks, without a buffer that could hide a full disk."""
    return io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+")


def _write(file: io.FileIO, content: bytes) -> None:
    view = memoryview(content)
    while view:
        written: int = file.write(view)
        view = view[written:]


def _explain_disk(error: OSError, root: Path) -> ExchangeError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ExchangeError(
            f"label cache: no space left in {root}; free some or set exchange.cache_dir to another disk"
        )
    return ExchangeError(
        f"label cache: cannot use {root}: {error.strerror}; make it writable or set exchange.cache_dir"
    )
