"""What nodes send back: files that are verified beside their place and renamed into it."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import google_crc32c

from fedstill.common.arrays import DIGEST_BYTES, MAX_CHUNK_BYTES
from fedstill.common.errors import DigestError, UsageError
from fedstill.protos.fedstill.v1 import labels_pb2
from fedstill.server.labels.shards import sync_file, sync_folder

MAX_UPLOAD_BYTES = 2**30
MAX_UPLOAD_FILES = 64
_RESERVE_RATIO = 0.05
_MAX_RESERVE_BYTES = 2**28
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MAX_DEPTH = 4


@dataclass(frozen=True)
class _Announced:
    path: str
    num_bytes: int
    sha256: bytes


def receive_upload(
    parts: Iterator[labels_pb2.UploadArtefactRequest],
    *,
    uploads_dir: Path,
    run_id: str | None,
    allow: Callable[[labels_pb2.UploadHeader], None] | None = None,
) -> int:
    """Receives one node's files and puts them at `uploads_dir/<node id>/<path>`.

    The same files may come again; each is replaced whole or not at all.

    Args:
        parts: A header and then payloads, file by file, without gaps.
        uploads_dir: Folder of all nodes.
        run_id: The only run that is accepted; None accepts any.
        allow: Raises `AccessError` for a sender who may not.

    Returns:
        Bytes stored.

    Raises:
        UsageError: A name, a size or an order that is not allowed.
        DigestError: Bytes that are not those announced.
        OSError: No space or no permission; nothing is left behind.
    """
    first = next(parts, None)
    if first is None or first.WhichOneof("part") != "header":
        raise UsageError("upload: expected the header as the first message")
    node_id, files = _check_header(first.header, run_id=run_id)
    if allow is not None:
        allow(first.header)
    uploads_dir.mkdir(parents=True, exist_ok=True)
    check_room(uploads_dir, sum(announced.num_bytes for announced in files))
    staged = Path(tempfile.mkdtemp(dir=uploads_dir, prefix=".upload-"))
    try:
        _receive_files(parts, files, staged)
        for index, announced in enumerate(files):
            final = uploads_dir / node_id / announced.path
            final.parent.mkdir(parents=True, exist_ok=True)
            (staged / str(index)).replace(final)
            sync_folder(final.parent)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return sum(announced.num_bytes for announced in files)


def check_name(kind: str, name: str) -> None:
    """Refuses a name that is not safe as the name of a file.

    Raises:
        UsageError: It is empty, too long, hidden, or holds other characters.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"upload: expected a {kind} of letters, digits, '.', '_' and '-', got {name[:80]!r}")


def check_room(folder: Path, num_bytes: int) -> None:
    """Refuses what would take the disk's last space, which the coordinator needs for its own state.

    Args:
        folder: A folder of that disk.
        num_bytes: What is announced.

    Raises:
        OSError: Too little would be left: 5 % of the disk, 256 MiB at most.
    """
    disk = shutil.disk_usage(folder)
    left = min(_MAX_RESERVE_BYTES, int(disk.total * _RESERVE_RATIO))
    if disk.free - num_bytes < left:
        raise OSError(
            f"upload: {num_bytes} bytes are announced, {disk.free} are free on the coordinator's disk and"
            f" {left} stay free for the run itself; make room there"
        )


def check_sender(run_id: str, node_id: str, *, expected_run_id: str | None) -> None:
    """Checks who uploads.

    Args:
        run_id: The run that the node works for, as it says.
        node_id: The node, as it says.
        expected_run_id: The only run that is accepted; None accepts any.

    Raises:
        UsageError: A name that is none, or another run.
    """
    check_name("run id", run_id)
    check_name("node id", node_id)
    if expected_run_id is not None and run_id != expected_run_id:
        raise UsageError(
            f"upload: expected run {expected_run_id}, got {run_id}; the node works for another run"
        )


def _check_header(header: labels_pb2.UploadHeader, *, run_id: str | None) -> tuple[str, Sequence[_Announced]]:
    check_sender(header.run_id, header.node_id, expected_run_id=run_id)
    files = [_Announced(file.path, file.num_bytes, file.sha256) for file in header.files]
    if not 1 <= len(files) <= MAX_UPLOAD_FILES:
        raise UsageError(f"upload: expected 1 to {MAX_UPLOAD_FILES} files, got {len(files)}")
    total = sum(file.num_bytes for file in files)
    if total > MAX_UPLOAD_BYTES:
        raise UsageError(f"upload: expected at most {MAX_UPLOAD_BYTES} bytes, got {total}")
    for file in files:
        parts = file.path.split("/")
        if len(parts) > _MAX_DEPTH or not all(_NAME.fullmatch(part) for part in parts):
            raise UsageError(
                "upload: expected a path such as artefact/model.onnx below the node's folder,"
                f" got {file.path[:80]!r}"
            )
        if len(file.sha256) != DIGEST_BYTES:
            raise UsageError(f"upload: expected a SHA-256 of {DIGEST_BYTES} bytes for {file.path}")
    paths = {file.path for file in files}
    folders = {str(parent) for path in paths for parent in PurePosixPath(path).parents}
    if len(paths) != len(files) or paths & folders:
        raise UsageError("upload: expected each path once, and none as both a file and a folder")
    return header.node_id, files


def _receive_files(
    parts: Iterator[labels_pb2.UploadArtefactRequest], files: Sequence[_Announced], staged: Path
) -> None:
    for index, announced in enumerate(files):
        digest = hashlib.sha256()
        position = 0
        with (staged / str(index)).open("wb") as file:
            while position < announced.num_bytes:
                content = _next_payload(parts, index=index, announced=announced, position=position)
                digest.update(content)
                position += file.write(content)
            sync_file(file)
        if digest.digest() != announced.sha256:
            raise DigestError(
                f"upload: SHA-256 of {announced.path} differs from the header; its bytes are altered"
            )
    if next(parts, None) is not None:
        raise UsageError("upload: more payloads came than the header announced")


def _next_payload(
    parts: Iterator[labels_pb2.UploadArtefactRequest], *, index: int, announced: _Announced, position: int
) -> bytes:
    part = next(parts, None)
    if part is None:
        raise UsageError(f"upload: {announced.path} ended after {position} of {announced.num_bytes} bytes")
    payload = part.payload
    content: bytes = payload.payload
    room = min(announced.num_bytes - position, MAX_CHUNK_BYTES)
    if payload.file_index != index or payload.offset != position or not 1 <= len(content) <= room:
        raise UsageError(
            f"upload: expected bytes of {announced.path} from {position} on, got {len(content)} bytes"
            f" of file {payload.file_index} at {payload.offset}"
        )
    if google_crc32c.value(content) != payload.crc32c:
        raise DigestError(f"upload: CRC-32C of {announced.path} at {position} differs; its bytes are altered")
    return content
