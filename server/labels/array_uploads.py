"""What nodes send back each round: arrays that exist once every chunk of them is verified.

round-<round>/<node id>/<digest>/   manifest.pb, payloads.bin: whole, never changes
round-<round>/<node id>/.<digest>/  the same while chunks are still to come

No file says which chunks have arrived: what lies at a chunk's place in `payloads.bin`
has the chunk's digest, or the chunk is still to come. So a crash at any moment, or two
streams with the same array, leave nothing that could be wrong.

Of several arrays of one node for one round the newest that is whole stays: a node that
redoes a round names in its reply the array that it sent last. An upload that is not
whole replaces none.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fedstill.common.arrays import (
    DIGEST_BYTES,
    Array,
    ArrayManifest,
    Mask,
    decode_chunk,
    parse_manifest,
    verify_payload,
)
from fedstill.common.errors import DigestError, NonFiniteError, NotPublishedError, UsageError
from fedstill.protos.fedstill.v1 import labels_pb2
from fedstill.server.labels.shards import settle_folder, staged_folder
from fedstill.server.labels.uploads import MAX_UPLOAD_BYTES, check_name, check_room, check_sender

AllowArray = Callable[[labels_pb2.UploadLabelsHeader | labels_pb2.GetUploadRequest], None]

UPLOADS_DIR = "uploads"
"""Of a run folder; what nodes sent in the rounds that are open."""
_MANIFEST = "manifest.pb"
_PAYLOADS = "payloads.bin"
_ROUND = re.compile(r"round-(\d+)")


@dataclass(frozen=True)
class UploadedRows:
    """One array of one node, verified and decoded.

    Attributes:
        array: Its rows; finite where they are floats.
        covered_S: Which rows of the larger set (S,) they are, in its order; None where
            the array is not a part of one.
        num_bytes: What sending it takes: manifest and chunk messages.
    """

    array: Array
    covered_S: Mask | None
    num_bytes: int


class UploadStore:
    """Takes and reads nodes' arrays; shared by processes through files alone.

    Args:
        root: The folder of one run's uploads; it is made on first use.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, round_number: int, node_id: str, digest: bytes) -> UploadedRows:
        """Reads an array that a node has sent.

        Args:
            round_number: The round that it was sent for.
            node_id: The node.
            digest: SHA-256 of its manifest, as the node's reply names it.

        Returns:
            The array.

        Raises:
            NotPublishedError: The store does not hold it, or not all of it.
            DigestError: Its files were altered or truncated.
            UsageError: A node id that is none.
        """
        folder = self._folder(round_number, node_id, digest)
        try:
            content = (folder / _MANIFEST).read_bytes()
            with (folder / _PAYLOADS).open("rb") as file:
                manifest = parse_manifest(content, digest=digest)
                num_bytes = manifest.num_bytes + manifest.messages_bytes
                return UploadedRows(_read_rows(manifest, file), manifest.covered_S, num_bytes)
        except FileNotFoundError:
            raise NotPublishedError(
                f"array {digest.hex()} of {node_id} for round {round_number} is not among the uploads; the"
                " node has not sent all of it, or has sent another one since"
            ) from None
        except DigestError as error:
            raise DigestError(f"{folder}: {error}; delete that folder and let the node send again") from None

    def forget(self, before_round: int) -> None:
        """Deletes what was sent for the rounds before the given one."""
        for folder in self.root.glob("round-*"):
            found = _ROUND.fullmatch(folder.name)
            if found and int(found[1]) < before_round:
                shutil.rmtree(folder, ignore_errors=True)

    def find_chunks(self, request: labels_pb2.GetUploadRequest, *, run_id: str | None) -> list[int] | None:
        """Finds which chunks of an upload have arrived.

        Args:
            request: Whose and which.
            run_id: The only run that is accepted; None accepts any.

        Returns:
            Their indices, ascending; None if the array is whole.

        Raises:
            UsageError: A name or a digest that is none, or another run.
        """
        check_sender(request.run_id, request.node_id, expected_run_id=run_id)
        folder = self._folder(request.round, request.node_id, request.digest)
        if folder.is_dir():
            return None
        partial = _partial_of(folder)
        try:
            manifest = parse_manifest((partial / _MANIFEST).read_bytes(), digest=request.digest)
            with (partial / _PAYLOADS).open("rb") as file:
                return _find_arrived(manifest, file, range(len(manifest.chunks)))
        except (FileNotFoundError, DigestError):
            return []

    def receive(
        self,
        parts: Iterator[labels_pb2.UploadLabelsRequest],
        *,
        run_id: str | None,
        allow: AllowArray | None = None,
    ) -> bool:
        """Receives chunks of one node's array; those that came before need not come again.

        Args:
            parts: A header and then chunks, in any order.
            run_id: The only run that is accepted; None accepts any.
            allow: Raises `AccessError` for a sender who may not.

        Returns:
            Whether the array is whole now.

        Raises:
            UsageError: A name, a size or a chunk that is not allowed, or the upload was
                given up for a newer one.
            DigestError: Bytes that are not those announced; what came before them stays.
            ExchangeError: A manifest or a payload that makes no array.
            OSError: No space or no permission.
        """
        first = next(parts, None)
        if first is None or first.WhichOneof("part") != "header":
            raise UsageError("upload: expected the header as the first message")
        header = first.header
        check_sender(header.run_id, header.node_id, expected_run_id=run_id)
        if allow is not None:
            allow(header)
        folder = self._folder(header.round, header.node_id, header.digest)
        manifest = parse_manifest(header.manifest, digest=header.digest)
        num_bytes = max(manifest.decoded_bytes, sum(chunk.num_bytes for chunk in manifest.chunks))
        if num_bytes > MAX_UPLOAD_BYTES:
            raise UsageError(
                f"upload: expected an array of at most {MAX_UPLOAD_BYTES} bytes, got {num_bytes}"
            )
        if folder.is_dir():
            return True
        self.root.mkdir(parents=True, exist_ok=True)
        check_room(self.root, sum(chunk.num_bytes for chunk in manifest.chunks))
        partial = _partial_of(folder)
        try:
            self._begin(partial, header.manifest)
            with (partial / _PAYLOADS).open("r+b") as file:
                received = _receive_chunks(parts, manifest, file)
                others = [index for index in range(len(manifest.chunks)) if index not in received]
                if _find_arrived(manifest, file, others) != others:
                    return False
            _finish(partial, folder)
        except FileNotFoundError:
            if not folder.is_dir():
                raise UsageError(
                    f"upload: the one of {header.node_id} for round {header.round} was given up for a newer"
                    " one, or its round is over"
                ) from None
        return True

    def _folder(self, round_number: int, node_id: str, digest: bytes) -> Path:
        check_name("node id", node_id)
        if len(digest) != DIGEST_BYTES:
            raise UsageError(f"upload: expected a digest of {DIGEST_BYTES} bytes, got {len(digest)}")
        return self.root / f"round-{round_number:05d}" / node_id / digest.hex()

    def _begin(self, partial: Path, manifest: bytes) -> None:
        """Makes the folder of an upload, and gives up what the node had begun before."""
        if partial.is_dir() and (partial / _MANIFEST).read_bytes() != manifest:
            shutil.rmtree(partial)  # damaged while it waited
        if not partial.is_dir():
            with staged_folder(self.root) as staged:
                (staged / _MANIFEST).write_bytes(manifest)
                (staged / _PAYLOADS).touch()
                settle_folder(staged, partial)
        for other in partial.parent.glob(".*"):
            if other != partial:
                shutil.rmtree(other, ignore_errors=True)


def _partial_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}")


def _finish(partial: Path, folder: Path) -> None:
    """Renames a whole array into place and deletes the older ones."""
    os.utime(partial / _MANIFEST)
    settle_folder(partial, folder)
    # The order is total, so that of two that finish together one stays for sure.
    age = _age(folder)
    for other in folder.parent.iterdir():
        if not other.name.startswith(".") and _age(other) < age:
            shutil.rmtree(other, ignore_errors=True)


def _age(folder: Path) -> tuple[int, str]:
    try:
        return (folder / _MANIFEST).stat().st_mtime_ns, folder.name
    except FileNotFoundError:  # half deleted
        return 0, folder.name


def _receive_chunks(
    parts: Iterator[labels_pb2.UploadLabelsRequest], manifest: ArrayManifest, file: BinaryIO
) -> set[int]:
    """Writes verified chunks to their places; returns which came."""
    received: set[int] = set()
    places = _places(manifest)
    for part in parts:
        chunk = part.chunk
        if part.WhichOneof("part") != "chunk" or chunk.index >= len(places) or chunk.index in received:
            raise UsageError(
                f"upload: expected each of {len(places)} chunks once, got chunk {chunk.index} again, beyond"
                " the last, or something else"
            )
        verify_payload(manifest, chunk.index, chunk.payload)
        _check_rows(manifest, chunk.index, chunk.payload)
        file.seek(places[chunk.index])
        file.write(chunk.payload)
        received.add(chunk.index)
    file.flush()
    return received


def _places(manifest: ArrayManifest) -> list[int]:
    return list(accumulate((chunk.num_bytes for chunk in manifest.chunks[:-1]), initial=0))


def _find_arrived(manifest: ArrayManifest, file: BinaryIO, indices: Iterable[int]) -> list[int]:
    places = _places(manifest)
    arrived = []
    for index in indices:
        file.seek(places[index])
        try:
            verify_payload(manifest, index, file.read(manifest.chunks[index].num_bytes))
        except DigestError:
            continue
        arrived.append(index)
    return arrived


def _read_rows(manifest: ArrayManifest, file: BinaryIO) -> Array:
    array = np.empty((manifest.num_rows, *manifest.row_shape), manifest.dtype)
    for index, chunk in enumerate(manifest.chunks):
        payload = file.read(chunk.num_bytes)
        verify_payload(manifest, index, payload)
        array[manifest.rows(index)] = decode_chunk(manifest, index, payload)
    return array


def _check_rows(manifest: ArrayManifest, index: int, payload: bytes) -> None:
    rows = decode_chunk(manifest, index, payload)
    if rows.dtype.kind == "f" and not np.isfinite(rows).all():
        raise NonFiniteError(
            f"upload: expected finite values, got NaN or infinity in chunk {index}; the node's student or"
            " teacher has diverged"
        )
