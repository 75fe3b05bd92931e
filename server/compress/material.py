"""The data behind a compression: loaded, encoded and cut into training, validation and test part."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedstill.common.compressors.pte import check_calibration
from fedstill.common.config import DataConfig
from fedstill.common.datasets import RAW_TASKS, Dataset, load_dataset, read_samples
from fedstill.common.datasets.draws import complement, draw_stratified
from fedstill.common.encoders import ENCODER_OF_TASK, Encoder, encoder_from_json, fit_encoder
from fedstill.common.errors import DataError, FedStillError
from fedstill.common.models import measure_input
from fedstill.common.seeding import stream
from fedstill.server.compress.records import Material


def load_material(
    config: DataConfig,
    *,
    seed: int,
    validation_fraction: float,
    num_calibration: int,
    calibration: str = "",
    encoder_path: Path | None = None,
) -> Material:
    """Loads and cuts data.

    Args:
        config: Where it comes from.
        seed: Seeds the cuts.
        validation_fraction: Part of the training part that chooses, stratified by class.
        num_calibration: Training samples that set the ranges of static quantisation.
        calibration: Other samples for that, a path or a built-in name; empty: the training part.
        encoder_path: The encoder that the model was trained with; None or missing: one is
            built on the training part.

    Returns:
        The material.

    Raises:
        DataError: Data or calibration samples cannot be read, or do not fit each other.
    """
    dataset = load_dataset(config, seed=seed)
    y_train = dataset.y_train
    num_validation = min(max(1, round(len(y_train) * validation_fraction)), len(y_train) - 1)
    validation = draw_stratified(y_train, num_validation, stream(seed, "compress-validation"))
    train = complement(validation, len(y_train))
    dataset, encoder = _encode(dataset, train, config, encoder_path)
    spec = measure_input(
        dataset.x_train[train],
        task=dataset.task,
        layout=dataset.layout,
        scale=dataset.scale,
        num_ids=encoder.num_ids if encoder else 0,
    )
    if calibration:
        calibration_S = read_samples(Path(calibration), split="all", task=dataset.task).x
        if encoder is not None:
            calibration_S = encoder.encode(calibration_S)
        try:
            check_calibration(calibration_S, spec)
        except FedStillError as error:
            raise DataError(f"--calibration {calibration}: {error}") from None
    else:
        drawn = stream(seed, "calibration").permutation(train)[:num_calibration]
        calibration_S = dataset.x_train[np.sort(drawn)]
    digest = hashlib.sha256()
    for values in (dataset.x_train, dataset.y_train, dataset.x_test, dataset.y_test):
        digest.update(f"{values.dtype}{values.shape}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return Material(
        dataset, spec, encoder, train, validation, calibration_S[:num_calibration], digest.hexdigest()
    )


def _encode(
    dataset: Dataset, train: np.ndarray, config: DataConfig, encoder_path: Path | None
) -> tuple[Dataset, Encoder | None]:
    if dataset.task not in RAW_TASKS:
        return dataset, None
    if encoder_path is not None and encoder_path.is_file():
        encoder = encoder_from_json(encoder_path.read_bytes(), origin=str(encoder_path))
    else:
        encoder = fit_encoder(
            ENCODER_OF_TASK[dataset.task],
            dataset.x_train[train],
            num_ids=config.vocabulary_size,
            max_length=config.max_length,
        )
    encoded = replace(dataset, x_train=encoder.encode(dataset.x_train), x_test=encoder.encode(dataset.x_test))
    return encoded, encoder
