"""IDX files, MNIST's format: train-images-idx3-ubyte[.gz] and their like."""

from __future__ import annotations

import math
import re
import struct
from functools import partial
from pathlib import Path

import numpy as np

from fedstill.common.datasets.reading import open_bytes, reading
from fedstill.common.datasets.records import Array, Content, Part, ReadOptions, read_wanted
from fedstill.common.datasets.values import as_labels
from fedstill.common.errors import DataError

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_PIECE_BYTES = 1 << 24
_NAME = re.compile(r"(train|t10k|test)-(images|labels)[-.]idx\d-ubyte(\.gz)?")
_ANY_NAME = re.compile(r".*idx\d-ubyte(\.gz)?|.*\.idx\d?(\.gz)?")


def is_idx_name(path: Path) -> bool:
    """Tells whether a file is named as IDX files are."""
    return _ANY_NAME.fullmatch(path.name) is not None


def read_idx(path: Path) -> Array:
    """Reads one IDX file.

    Args:
        path: The file, gzipped where its name ends in .gz.

    Returns:
        The array with the file's shape, in native byte order.

    Raises:
        DataError: No IDX file, or one whose length is not what its header says.
    """
    with reading(path), open_bytes(path) as file:
        head = file.read(4)
        if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _DTYPES or not head[3]:
            raise DataError(f"{path} is no IDX file: its magic number is {head.hex() or 'missing'}")
        dims = file.read(4 * head[3])
        if len(dims) < 4 * head[3]:
            raise DataError(f"{path} is truncated: it ends inside its header")
        shape = struct.unpack(f">{head[3]}I", dims)
        dtype = np.dtype(_DTYPES[head[2]])
        expected = math.prod(shape) * dtype.itemsize
        body = bytearray()
        # Piece by piece, since a damaged header may announce more than there is memory.
        while len(body) <= expected and (piece := file.read(_PIECE_BYTES)):
            body += piece
    if len(body) != expected:
        came = "more came" if len(body) > expected else f"{len(body)} came"
        raise DataError(f"{path} should hold {expected} bytes for shape {shape}, but {came}; fetch it again")
    return np.frombuffer(body, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def read_idx_file(path: Path) -> Content:
    """Reads a file of images on its own, unlabelled."""
    return Content(test=Part(read_idx(path)))


def read_idx_folder(folder: Path, options: ReadOptions) -> Content | None:
    """Reads MNIST's four files; None if the folder holds no such images.

    Args:
        folder: Where they lie; the test part (t10k) and its labels may be missing.
        options: What is asked for.

    Returns:
        The content.

    Raises:
        DataError: A file is damaged, or labels are missing.
    """
    files: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.iterdir()):
        match = _NAME.fullmatch(path.name)
        if match:
            part = "train" if match[1] == "train" else "test"
            files.setdefault((part, match[2]), path)
    loaders = {
        part: partial(
            _read_pair, files[part, "images"], files.get((part, "labels")), need_labels=options.need_labels
        )
        for part in ("train", "test")
        if (part, "images") in files
    }
    if not loaders:
        return None
    train, test = read_wanted(options, train=loaders.get("train"), test=loaders.get("test"))
    return Content(train, test)


def _read_pair(images: Path, labels: Path | None, *, need_labels: bool) -> Part:
    if labels is None:
        if need_labels:
            raise DataError(f"{images} has no file of labels beside it; expected …-labels-idx1-ubyte[.gz]")
        return Part(read_idx(images))
    return Part(read_idx(images), as_labels(read_idx(labels), origin=str(labels)))
