"""A teacher that is no model here: public samples go out, their soft labels come back in a file."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedstill.common.datasets import RAW_TASKS, Dataset, Splits
from fedstill.common.errors import ConfigError
from fedstill.common.files import atomic_path, write_text_atomically

KEY = "teacher.labels"
# Of a probability, before its logarithm; what a class that is ruled out keeps.
FLOOR = 1e-7
# Sums of probabilities that were rounded to 16 bits.
TOLERANCE = 5e-3


@dataclass(frozen=True)
class GivenLabels:
    """Soft labels from elsewhere.

    Attributes:
        logits_SC: Logits (S, C), float32, finite, in the order of the public samples.
        origin: SHA-256 of the file, hexadecimal: whose labels they are.
    """

    logits_SC: np.ndarray
    origin: str


def raw_public(dataset: Dataset, splits: Splits) -> np.ndarray:
    """Picks the public samples as the data has them: raw texts, also where ids were made of them."""
    x = dataset.x_train if dataset.texts_train is None else dataset.texts_train
    return x[splits.public]


def digest_public(samples_S: np.ndarray) -> str:
    """Computes the SHA-256 of raw public samples, hexadecimal: values, shape and order."""
    if samples_S.dtype == object:
        content = json.dumps(samples_S.tolist(), ensure_ascii=False).encode("utf-8", "surrogatepass")
        return hashlib.sha256(content).hexdigest()
    digest = hashlib.sha256(f"{samples_S.dtype.str} {samples_S.shape} ".encode())
    digest.update(np.ascontiguousarray(samples_S).data)
    return digest.hexdigest()


def write_public(dataset: Dataset, splits: Splits, folder: Path) -> list[Path]:
    """Writes the public samples in order, for whoever labels them.

    Args:
        dataset: The data set; its labels stay here.
        splits: Which samples are public.
        folder: Where; made. What was written there before is replaced.

    Returns:
        `public.npz` (`x` (S, *sample_shape) and `digest`), or `public.csv` with a column `text` or
        `sequence`; and `public.json` with digest, number and class names.
    """
    samples_S = raw_public(dataset, splits)
    digest = digest_public(samples_S)
    folder.mkdir(parents=True, exist_ok=True)
    if dataset.task in RAW_TASKS:
        path = folder / "public.csv"
        lines = io.StringIO(newline="")
        csv.writer(lines).writerows([[dataset.task], *([text] for text in samples_S)])
        with atomic_path(path) as temporary:
            temporary.write_bytes(lines.getvalue().encode("utf-8", "surrogatepass"))
    else:
        path = folder / "public.npz"
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, x=samples_S, digest=np.array(digest))
    facts = {"digest": digest, "num_samples": len(samples_S), "class_names": list(dataset.class_names)}
    facts_path = folder / "public.json"
    write_text_atomically(facts_path, json.dumps(facts, ensure_ascii=False, indent=1) + "\n")
    return [path, facts_path]


def read_labels(path: Path, *, digest: str, num_samples: int, num_classes: int) -> GivenLabels:
    """Reads soft labels of the public samples.

    Args:
        path: An npz with `digest` and `logits` or `probabilities` (S, C); or Parquet with a list column
            of either name, and the digest in a column `digest` or in the file's metadata.
        digest: That of this run's public samples.
        num_samples: How many there are.
        num_classes: Classes C.

    Returns:
        The labels as logits; of probabilities p they are log p, p being `FLOOR` at least.

    Raises:
        ConfigError: The file is missing or none of these, of another public set, or its rows are no labels.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{KEY}: cannot read {path}: {error.strerror}") from None
    fields = _read_parquet(content, path) if path.suffix == ".parquet" else _read_npz(content, path)
    found = fields.get("digest", "")
    if found != digest:
        what = f"of another public set ({found[:12]}…)" if found else "without a digest of its public set"
        raise ConfigError(
            f"{KEY}: {path} is {what}, this run's is {digest[:12]}…: label what `fedstill teacher public`"
            " writes for this configuration, and keep its digest"
        )
    kinds = [kind for kind in ("logits", "probabilities") if kind in fields]
    if len(kinds) != 1:
        raise ConfigError(
            f"{KEY}: expected logits or probabilities in {path}, got {' and '.join(kinds) or 'neither'}"
        )
    rows_SC = fields[kinds[0]]
    logits_SC = _check_rows(rows_SC, kinds[0], path, shape=(num_samples, num_classes))
    return GivenLabels(logits_SC, hashlib.sha256(content).hexdigest())


def _read_npz(content: bytes, path: Path) -> dict[str, Any]:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            fields = {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile):
        raise ConfigError(
            f"{KEY}: expected {path} to be an .npz of plain arrays, or a .parquet file"
        ) from None
    if "digest" in fields:
        given = fields["digest"]
        value = given.item() if given.size == 1 else ""
        fields["digest"] = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
    return fields


def _read_parquet(content: bytes, path: Path) -> dict[str, Any]:
    try:
        from pyarrow import ArrowException, BufferReader, parquet
    except ImportError:
        raise ConfigError(
            f"{KEY}: reading Parquet takes pyarrow: pip install pyarrow, or give an .npz"
        ) from None
    try:
        table = parquet.read_table(BufferReader(content))
        fields = {}
        for kind in {"logits", "probabilities"} & set(table.column_names):
            fields[kind] = np.array(table[kind].to_pylist())
        given = [(table.schema.metadata or {}).get(b"digest", b"").decode("ascii", "replace")]
        if "digest" in table.column_names:
            given = table["digest"].unique().to_pylist()
    except (ArrowException, OSError, ValueError):
        raise ConfigError(
            f"{KEY}: expected {path} to be a Parquet file with a list of equally many numbers per row"
        ) from None
    return fields | {"digest": str(given[0]) if len(given) == 1 else ""}


def _check_rows(rows_SC: np.ndarray, kind: str, path: Path, *, shape: tuple[int, int]) -> np.ndarray:
    if rows_SC.shape != shape or rows_SC.dtype.kind not in "fiu":
        raise ConfigError(
            f"{KEY}: expected {kind} of shape {shape} in {path}, a row per public sample and a column per"
            f" class, got {rows_SC.dtype} {rows_SC.shape}"
        )
    values_SC = rows_SC.astype(np.float64)
    is_bad_S = ~(np.abs(values_SC) <= np.finfo(np.float32).max).all(axis=1)
    fault = "that are not finite"
    if kind == "probabilities" and not is_bad_S.any():
        is_bad_S = (values_SC < 0).any(axis=1) | (np.abs(values_SC.sum(axis=1) - 1) > TOLERANCE)
        fault = "below 0, or that do not sum to 1"
        values_SC = np.log(np.maximum(values_SC, FLOOR))
    if is_bad_S.any():
        first = int(np.argmax(is_bad_S))
        raise ConfigError(
            f"{KEY}: {path} holds {kind} {fault} in {int(is_bad_S.sum())} of its rows, first in row {first}"
        )
    return values_SC.astype(np.float32)
