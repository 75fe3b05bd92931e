"""Runs an artefact over raw data and writes one predicted class per sample."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from fedstill.common.artefact import Artefact, read_artefact
from fedstill.common.datasets import Samples, read_samples
from fedstill.common.errors import DataError
from fedstill.common.files import atomic_path
from fedstill.common.prediction import OpenArtefact


def predict_file(
    artefact_dir: Path,
    data: str,
    output: Path,
    *,
    split: str = "test",
    label_column: str = "label",
    with_probabilities: bool = False,
    num_threads: int = 1,
) -> tuple[int, float | None]:
    """Predicts the class of every sample of a data file.

    Args:
        artefact_dir: Folder of the artefact.
        data: Path in any supported format, or a built-in name.
        output: CSV that is written: header `prediction`, one class index per line in
            the order of the data; with probabilities one more column per class.
        split: Part of the data: "test", "train" or "all".
        label_column: Column of a CSV that holds the class and is not a feature.
        with_probabilities: Write the probability of each class too.
        num_threads: Threads that run the artefact.

    Returns:
        Number of samples, and accuracy where the data has labels.

    Raises:
        ArtefactError: The artefact is incomplete or altered.
        DataError: The data cannot be read or has another shape.
    """
    # Resolved once: a link to what is served may be switched while the files are read.
    artefact = read_artefact(artefact_dir.resolve(), num_threads=num_threads)
    samples = read_for_artefact(artefact, data, split=split, label_column=label_column)
    probabilities = OpenArtefact(artefact).predict_probabilities(samples.x)
    predicted = probabilities.argmax(axis=1)
    with atomic_path(output) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if with_probabilities:
            writer.writerow(["prediction", *artefact.class_names])
            writer.writerows(
                [int(index), *(f"{value:.6g}" for value in row)]
                for index, row in zip(predicted, probabilities, strict=True)
            )
        else:
            writer.writerow(["prediction"])
            writer.writerows([int(index)] for index in predicted)
    accuracy = None if samples.y is None else float(np.mean(predicted == samples.y))
    return len(predicted), accuracy


def read_for_artefact(artefact: Artefact, data: str, *, split: str, label_column: str) -> Samples:
    """Reads raw samples as an artefact takes them.

    Args:
        artefact: What they are for.
        data: Path in any supported format, or a built-in name.
        split: Part of the data: "test", "train" or "all".
        label_column: Column of a CSV that holds the class and is not a feature.

    Returns:
        Samples, and labels if there are any.

    Raises:
        DataError: The data cannot be read or has another shape.
    """
    if split not in ("test", "train", "all"):
        raise DataError(f"expected a split of test, train or all, got {split!r}")
    cut = artefact.manifest.get("split", {})
    return read_samples(
        Path(data),
        split=split,
        label_column=label_column,
        task=artefact.manifest["input"]["task"],
        expected_shape=artefact.sample_shape,
        expected_dtype=artefact.dtype,
        class_names=artefact.class_names,
        feature_names=tuple(artefact.manifest["input"].get("features", ())),
        seed=int(cut.get("seed", 0)),
        test_fraction=float(cut.get("test_fraction", 0.2)),
    )
