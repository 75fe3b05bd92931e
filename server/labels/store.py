"""The label store: label sets and arrays in a folder, shared by processes through files alone.

sets/<id>/       label_set.json, logits.npy: a label set, immutable
index/<key>      (teacher, public set, augmentation seed) → id; the first one stays
encodings/<id>/  codec and temperature → digest of the encoded array
arrays/<digest>/ what is sent: see `fedstill.server.labels.shards`
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedstill.common.arrays import (
    DTYPES,
    MAX_DIMENSIONS,
    MAX_TEMPERATURE,
    RAW,
    Array,
    LabelEncoding,
    count_chunk_rows,
)
from fedstill.common.codecs import Logits, get_codec
from fedstill.common.errors import ConfigError, DataError, DigestError, NotPublishedError
from fedstill.server.labels.canonical import (
    CANONICAL_CHUNK_BYTES,
    canonical,
    canonical_chunks,
    identify,
    write_first,
    write_logits,
)
from fedstill.server.labels.shards import (
    StoredArray,
    open_array,
    settle_folder,
    staged_folder,
    write_array,
)

_MAX_OPEN_ARRAYS = 64
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class LabelSet:
    """A published set of logits.

    Attributes:
        id: SHA-256, hexadecimal, of the set's canonical manifest.
        num_samples: Rows, in the order of the public set.
        num_classes: Logits per row.
        teacher_digest: Digest of the teacher or ensemble that made it.
        public_digest: Digest of the public set that it labels.
        chunk_bytes: Decoded bytes per chunk of its encodings, about.
        augmentation: What it takes to make its samples from the public set; None: they are that set.
    """

    id: str
    num_samples: int
    num_classes: int
    teacher_digest: str
    public_digest: str
    chunk_bytes: int
    augmentation: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class EncodedLabels:
    """A label set in one codec and for one temperature.

    Attributes:
        digest: SHA-256 of its manifest: what a node asks for.
        num_bytes: Bytes of the manifest and all chunk messages.
    """

    digest: bytes
    num_bytes: int


class LabelStore:
    """Publishes and finds label sets and arrays; safe between threads and processes.

    Args:
        root: The store's folder; it is made on first use.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._verified_sets: set[str] = set()
        self._open_arrays: OrderedDict[bytes, StoredArray] = OrderedDict()

    def publish_labels(
        self,
        logits_SC: Logits,
        *,
        teacher_digest: str,
        public_digest: str,
        augmentation_seed: int = 0,
        augmentation: Mapping[str, Any] | None = None,
        chunk_bytes: int = CANONICAL_CHUNK_BYTES,
    ) -> LabelSet:
        """Publishes the teacher's logits on the public set, or finds those published before.

        Args:
            logits_SC: Logits (S, C), float32, finite; a memory map is read chunk by chunk.
            teacher_digest: Digest of the teacher or ensemble.
            public_digest: Digest of the public set.
            augmentation_seed: Seed of the augmentation under which they were made, for the index.
            augmentation: All that it takes to make the same samples again, kept with the set.
            chunk_bytes: Decoded bytes per chunk of the encodings, about.

        Returns:
            The label set that the index names: the first that was published.

        Raises:
            DataError: Wrong shape or type, or values that are not finite.
            OSError: No space or no permission; nothing is left behind.
        """
        if (
            logits_SC.ndim != 2
            or logits_SC.dtype != np.float32
            or not (np.array(logits_SC.shape) >= (1, 2)).all()
        ):
            raise DataError(
                "label set: expected float32 logits of shape (samples, classes) with at least one sample and"
                f" two classes, got {logits_SC.dtype} {logits_SC.shape}"
            )
        count_chunk_rows(4 * logits_SC.shape[1], chunk_bytes)
        origin = {"teacher_digest": teacher_digest, "public_digest": public_digest}
        known = self.find_labels(**origin, augmentation_seed=augmentation_seed)
        if known is not None:
            return known
        with staged_folder(self.root) as staged:
            identity = {
                "kind": "fedstill label set 1",
                "num_samples": logits_SC.shape[0],
                "num_classes": logits_SC.shape[1],
                "chunks": write_logits(staged / "logits.npy", logits_SC),
                **origin,
                **({"augmentation": dict(augmentation)} if augmentation else {}),
            }
            set_id = identify(identity)
            (staged / "label_set.json").write_text(
                canonical({"identity": identity, "chunk_bytes": chunk_bytes})
            )
            settle_folder(staged, self.root / "sets" / set_id)
        return self._enter_index(self._index_path(**origin, augmentation_seed=augmentation_seed), set_id)

    def find_labels(
        self, *, teacher_digest: str, public_digest: str, augmentation_seed: int = 0
    ) -> LabelSet | None:
        """Finds the label set that was published first for these three; None if none was."""
        path = self._index_path(
            teacher_digest=teacher_digest, public_digest=public_digest, augmentation_seed=augmentation_seed
        )
        return self._read_entry(path)

    def label_set(self, label_set_id: str) -> LabelSet:
        """Reads what is known of a label set.

        Raises:
            NotPublishedError: The store does not hold it.
            DigestError: Its description was altered.
        """
        record = self._read_set(label_set_id)
        identity = record["identity"]
        return LabelSet(
            id=label_set_id,
            num_samples=identity["num_samples"],
            num_classes=identity["num_classes"],
            teacher_digest=identity["teacher_digest"],
            public_digest=identity["public_digest"],
            chunk_bytes=record["chunk_bytes"],
            augmentation=identity.get("augmentation"),
        )

    def logits(self, label_set_id: str) -> Logits:
        """Maps the logits (S, C) of a label set, float32, read-only; verified at the first call.

        Raises:
            NotPublishedError: The store does not hold the set.
            DigestError: Its files were altered or truncated.
        """
        identity = self._read_set(label_set_id)["identity"]
        path = self.root / "sets" / label_set_id / "logits.npy"
        altered = DigestError(
            f"{path} was altered or truncated; delete its folder and publish the labels again"
        )
        try:
            logits_SC: Logits = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            raise altered from None
        if logits_SC.shape != (identity["num_samples"], identity["num_classes"]) or logits_SC.dtype != "<f4":
            raise altered
        if label_set_id not in self._verified_sets:
            found = [hashlib.sha256(block.tobytes()).hexdigest() for block in canonical_chunks(logits_SC)]
            if found != identity["chunks"]:
                raise altered
            self._verified_sets.add(label_set_id)
        return logits_SC

    def encode(
        self, label_set_id: str, *, codec: str, temperature: float, max_encodings: int | None = None
    ) -> EncodedLabels:
        """Encodes a label set, once per codec and temperature.

        Args:
            label_set_id: The set.
            codec: A name of the codec registry.
            temperature: Distillation temperature that the codec optimises for, in (0, 100].
            max_encodings: Refuses to make one more where the set has so many already.

        Returns:
            Digest and size of the encoding.

        Raises:
            ConfigError: Unknown codec, impossible temperature, or too many encodings.
            NotPublishedError: The store does not hold the set.
            DigestError: The set's files were altered.
        """
        chosen = get_codec(codec)
        if not 0 < temperature <= MAX_TEMPERATURE:
            raise ConfigError(f"temperature: expected above 0, up to {MAX_TEMPERATURE:g}, got {temperature}")
        temperature = float(temperature)
        label_set = self.label_set(label_set_id)
        path = self.root / "encodings" / label_set_id / f"{codec}-{temperature.hex()}"
        with self._lock:
            known = self._read_encoding(path)
            if known is not None:
                return known
            if max_encodings is not None and path.parent.is_dir():
                num_encodings = sum(not other.name.startswith(".") for other in path.parent.iterdir())
                if num_encodings >= max_encodings:
                    raise ConfigError(
                        f"label set {label_set_id}: expected one of its {num_encodings} encodings, got"
                        f" {codec} at temperature {temperature}; no more are made on demand"
                    )
            logits_SC = self.logits(label_set_id)
            rows = count_chunk_rows(4 * label_set.num_classes, label_set.chunk_bytes)
            digest = write_array(
                self.root,
                (
                    chosen.encode(np.asarray(logits_SC[start : start + rows]), temperature=temperature)
                    for start in range(0, label_set.num_samples, rows)
                ),
                num_rows=label_set.num_samples,
                row_shape=(label_set.num_classes,),
                dtype="float32",
                codec=codec,
                encoding=LabelEncoding(label_set_id, codec, temperature),
                chunk_rows=rows,
            )
            write_first(path, digest.hex())
        known = self._read_encoding(path)
        if known is None:
            raise DigestError(f"{path} names an array that is gone; delete that file and encode again")
        return known

    def publish_samples(self, samples: Array, *, chunk_bytes: int = CANONICAL_CHUNK_BYTES) -> bytes:
        """Publishes an array as it is, such as the inputs of the public or the evaluation set.

        Args:
            samples: Rows along the first axis; integers or floats of 1 to 8 bytes. A
                memory map is read chunk by chunk.
            chunk_bytes: Bytes per chunk, about.

        Returns:
            The array's digest, 32 bytes; the same array gives the same.

        Raises:
            DataError: An element type that does not travel, or no rows.
            OSError: No space or no permission; nothing is left behind.
        """
        dtype = samples.dtype.name
        if dtype not in DTYPES or not 1 <= samples.ndim <= MAX_DIMENSIONS + 1 or 0 in samples.shape:
            raise DataError(
                f"samples: expected a filled array of {', '.join(DTYPES)} with one row per sample,"
                f" got {samples.dtype} {samples.shape}"
            )
        row_shape = samples.shape[1:]
        rows = count_chunk_rows(int(np.prod(row_shape, dtype=np.int64)) * samples.dtype.itemsize, chunk_bytes)
        return write_array(
            self.root,
            (
                samples[start : start + rows].astype(DTYPES[dtype], copy=False).tobytes()
                for start in range(0, samples.shape[0], rows)
            ),
            num_rows=samples.shape[0],
            row_shape=row_shape,
            dtype=dtype,
            codec=RAW,
            encoding=None,
            chunk_rows=rows,
        )

    def array(self, digest: bytes) -> StoredArray:
        """Opens a published array for sending; the newest ones stay mapped.

        Raises:
            NotPublishedError: The store does not hold it.
            DigestError: Its files were altered.
        """
        with self._lock:
            found = self._open_arrays.pop(digest, None) or open_array(self.root, digest)
            self._open_arrays[digest] = found
            if len(self._open_arrays) > _MAX_OPEN_ARRAYS:
                self._open_arrays.popitem(last=False)
        return found

    def _index_path(self, **origin: str | int) -> Path:
        return self.root / "index" / f"{identify(origin)}.json"

    def _read_entry(self, path: Path) -> LabelSet | None:
        try:
            return self.label_set(json.loads(path.read_text())["label_set_id"])
        except (FileNotFoundError, NotPublishedError):
            return None

    def _enter_index(self, path: Path, set_id: str) -> LabelSet:
        write_first(path, canonical({"label_set_id": set_id}))
        winner = self._read_entry(path)
        if winner is None:
            raise DigestError(f"{path} names a label set that is gone; delete that file and publish again")
        return winner

    def _read_set(self, label_set_id: str) -> Any:
        missing = NotPublishedError(
            f"label set {label_set_id[:80]!r} is not in this label store; check its id or publish it first"
        )
        if not _HEX_DIGEST.fullmatch(label_set_id):
            raise missing
        path = self.root / "sets" / label_set_id / "label_set.json"
        try:
            record = json.loads(path.read_text())
            genuine = identify(record["identity"]) == label_set_id
        except FileNotFoundError:
            raise missing from None
        except (ValueError, KeyError, TypeError):
            genuine = False
        if not genuine:
            raise DigestError(f"{path} does not match its id; delete its folder and publish the labels again")
        return record

    def _read_encoding(self, path: Path) -> EncodedLabels | None:
        try:
            digest = bytes.fromhex(path.read_text())
            return EncodedLabels(digest, open_array(self.root, digest).num_bytes)
        except (FileNotFoundError, NotPublishedError):
            return None
