"""From raw text and sequences to what models take, by an encoder that saw nothing private."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedstill.common.arrays import decode_chunk, parse_manifest, read_message
from fedstill.common.config import DataConfig
from fedstill.common.datasets import RAW_TASKS, Dataset, Splits
from fedstill.common.encoders import (
    ENCODER_OF_TASK,
    PADDING,
    Encoder,
    encoder_from_json,
    fit_encoder,
    read_tokenizer,
)
from fedstill.common.errors import DataError
from fedstill.server.exchange.exchange import Exchange


def encode_dataset(dataset: Dataset, splits: Splits, config: DataConfig) -> tuple[Dataset, Encoder | None]:
    """Builds the encoder on the server's and the public samples, and encodes what is published.

    Args:
        dataset: The data set; one of numbers is returned as it is.
        splits: Who holds what of it.
        config: Size of the vocabulary and length of a sample.

    Returns:
        The data set with ids for the server's, the public and the evaluation samples and
        nothing but padding for private ones, and the encoder; None where samples are numbers.

    Raises:
        DataError: The server's and the public samples hold no symbols at all, or `data.tokenizer`
            does not fit them or cannot be read.
    """
    if config.tokenizer and dataset.task != "text":
        raise DataError(f"data.tokenizer makes ids of texts, and the data holds {dataset.task} samples")
    if dataset.task not in RAW_TASKS:
        return dataset, None
    visible = np.concatenate([splits.server_train, splits.public])
    encoder = _make_encoder(dataset.task, dataset.x_train[visible], config)
    x_train = np.full((len(dataset.x_train), encoder.max_length), PADDING, encoder.dtype)
    encoded = np.concatenate([visible, splits.server_validation])
    x_train[encoded] = encoder.encode(dataset.x_train[encoded])
    texts_train = np.full(len(dataset.x_train), "", object)
    texts_train[encoded] = dataset.x_train[encoded]
    return (
        replace(
            dataset,
            x_train=x_train,
            x_test=encoder.encode(dataset.x_test),
            texts_train=texts_train,
            texts_test=dataset.x_test,
        ),
        encoder,
    )


def _make_encoder(task: str, texts_S: np.ndarray, config: DataConfig) -> Encoder:
    if config.tokenizer:
        path = Path(os.path.expandvars(config.tokenizer)).expanduser()
        return read_tokenizer(path, texts_S, max_length=config.max_length)
    return fit_encoder(
        ENCODER_OF_TASK[task], texts_S, num_ids=config.vocabulary_size, max_length=config.max_length
    )


def read_encoder(exchange: Exchange) -> Encoder | None:
    """Reads the published encoder back from the store; None where samples are numbers."""
    digest = exchange.publication.encoder_digest
    if not digest:
        return None
    stored = exchange.store.array(digest)
    manifest = parse_manifest(stored.manifest, digest=digest)
    chunks = [
        decode_chunk(manifest, index, read_message(manifest, index, stored.message(index)))
        for index in range(stored.num_chunks)
    ]
    return encoder_from_json(np.concatenate(chunks).tobytes(), origin="the published encoder")
