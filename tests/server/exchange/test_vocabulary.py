"""The encoder sees the server's and the public texts, and nobody else's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedstill.common.config import Config, build_config
from fedstill.common.datasets import Dataset, Splits, load_dataset, split_dataset
from fedstill.common.encoders import UNKNOWN, Encoder
from fedstill.server.exchange.vocabulary import encode_dataset

Encoded = tuple[Dataset, Splits, Dataset, Encoder]


def make_config(tmp_path: Any, **keys: Any) -> Config:
    rows = [f"{index % 2},common word{index} topic{index % 2}" for index in range(120)]
    path = tmp_path / "d.csv"
    path.write_text("label,text\n" + "\n".join(rows) + "\n", encoding="utf-8")
    values = {"data.source": str(path), "federation.num_nodes": 3, "federation.partitioner": "iid"}
    return build_config(values | keys)


def encode(config: Config) -> Encoded:
    dataset = load_dataset(config.data, seed=0)
    splits = split_dataset(dataset, data=config.data, federation=config.federation, seed=0)
    encoded, encoder = encode_dataset(dataset, splits, config.data)
    assert encoder is not None
    return dataset, splits, encoded, encoder


@pytest.fixture
def encoded(tmp_path: Any) -> Encoded:
    return encode(make_config(tmp_path))


def words_of(texts: Any) -> set[str]:
    return {word for text in texts for word in text.split() if word.startswith("word")}


def test_words_of_the_server_and_the_public_set_are_known(encoded: Encoded) -> None:
    dataset, splits, _, encoder = encoded
    assert words_of(dataset.x_train[splits.server_train]) <= set(encoder.symbols)
    assert words_of(dataset.x_train[splits.public]) <= set(encoder.symbols)


def test_a_word_that_only_a_node_or_the_evaluation_set_has_is_unknown(encoded: Encoded) -> None:
    dataset, splits, _, encoder = encoded
    private = np.concatenate([part.train for part in splits.partitions])
    for texts in (dataset.x_train[private], dataset.x_test, dataset.x_train[splits.server_validation]):
        assert not words_of(texts) & set(encoder.symbols)
        assert (encoder.encode(texts)[:, 1] == UNKNOWN).all()


def test_what_is_published_is_encoded_and_private_texts_are_not(encoded: Encoded) -> None:
    dataset, splits, ids, encoder = encoded
    for part in (splits.server_train, splits.server_validation, splits.public):
        assert np.array_equal(ids.x_train[part], encoder.encode(dataset.x_train[part]))
    assert np.array_equal(ids.x_test, encoder.encode(dataset.x_test))
    for partition in splits.partitions:
        assert not ids.x_train[partition.train].any()


def test_other_private_texts_change_nothing(encoded: Encoded) -> None:
    dataset, splits, _, encoder = encoded
    changed = dataset.x_train.copy()
    for partition in splits.partitions:
        changed[partition.train] = "secret secret secret"
    _, again = encode_dataset(Dataset(**{**vars(dataset), "x_train": changed}), splits, build_config({}).data)
    assert again == encoder


def test_vocabulary_and_length_follow_the_configuration(tmp_path: Any) -> None:
    _, _, ids, encoder = encode(make_config(tmp_path, **{"data.vocabulary_size": 16, "data.max_length": 2}))
    assert encoder.num_ids == 16
    assert ids.x_test.shape[1] == 2


def test_numbers_need_no_encoder() -> None:
    config = build_config({})
    dataset = load_dataset(config.data, seed=0)
    splits = split_dataset(dataset, data=config.data, federation=config.federation, seed=0)
    assert encode_dataset(dataset, splits, config.data) == (dataset, None)
