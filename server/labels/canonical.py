"""The form of a label set that its identity is taken from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fedstill.common.codecs import Logits
from fedstill.common.errors import DataError
from fedstill.server.labels.shards import sync_folder

# Fixed, so that a label set's id does not depend on how it is sent.
CANONICAL_CHUNK_BYTES = 1_048_576


def canonical(record: dict[str, Any]) -> str:
    """Writes a record as JSON, the same bytes for the same content."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"))


def identify(record: dict[str, Any]) -> str:
    """Computes the SHA-256 of a record, hexadecimal."""
    return hashlib.sha256(canonical(record).encode()).hexdigest()


def canonical_chunks(logits_SC: Logits) -> Iterator[Logits]:
    """Yields the chunks whose digests identify a set."""
    rows = max(1, CANONICAL_CHUNK_BYTES // (4 * logits_SC.shape[1]))
    for start in range(0, logits_SC.shape[0], rows):
        yield np.ascontiguousarray(logits_SC[start : start + rows], dtype="<f4")


def write_logits(path: Path, logits_SC: Logits) -> list[str]:
    """Writes logits as .npy; returns the chunks' SHA-256, hexadecimal; raises `DataError` at NaN."""
    digests = []
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": logits_SC.shape}
        np.lib.format.write_array_header_1_0(file, header)
        for block in canonical_chunks(logits_SC):
            if not np.isfinite(block).all():
                raise DataError(
                    "label set: expected finite logits, got NaN or infinity; check the teacher and its inputs"
                )
            content = block.tobytes()
            digests.append(hashlib.sha256(content).hexdigest())
            file.write(content)
    return digests


def write_first(path: Path, text: str) -> None:
    """Writes a small file unless another process was first; link() decides, even over NFS."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(name)
    finally:
        Path(name).unlink()
    sync_folder(path.parent)
