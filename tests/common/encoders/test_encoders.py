"""The contract that every encoder of the registry keeps, and what each kind makes of its texts."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedstill.common.encoders import (
    ENCODER_OF_TASK,
    ENCODERS,
    PADDING,
    UNKNOWN,
    Encoder,
    encoder_from_json,
    fit_encoder,
)
from fedstill.common.errors import ConfigError, DataError

TEXTS = ["The cat sat. The CAT ran!", "a dog, a cat", "acgt ACGT", "the dog's bone — 12 of them"]
every_kind = pytest.mark.parametrize("kind", sorted(ENCODERS))
texts = st.lists(st.text(max_size=30), min_size=1, max_size=8)


def read_back(encoder):
    return encoder_from_json(encoder.to_json(), origin="test")


@every_kind
def test_an_encoder_comes_back_from_its_json(kind):
    encoder = fit_encoder(kind, TEXTS)
    assert read_back(encoder) == encoder
    assert read_back(encoder).to_json() == encoder.to_json()


@every_kind
def test_the_order_of_the_texts_does_not_matter(kind):
    assert fit_encoder(kind, TEXTS).to_json() == fit_encoder(kind, TEXTS[::-1]).to_json()


@every_kind
def test_what_was_not_seen_is_unknown(kind):
    encoder = fit_encoder(kind, ["aaa bbb"], max_length=4)
    assert encoder.encode(["ζ"]).tolist() == [[UNKNOWN, PADDING, PADDING, PADDING]]


@every_kind
def test_every_symbol_seen_is_known_and_reserved_ids_are_nobodys(kind):
    encoder = fit_encoder(kind, ["ab ab cd", "cd ab"])
    ids = encoder.encode(["ab cd"])
    assert ids[ids != PADDING].min() > UNKNOWN
    assert ids.max() < encoder.num_ids


@every_kind
def test_long_texts_are_cut_and_short_ones_filled(kind):
    encoder = fit_encoder(kind, TEXTS, max_length=3)
    ids = encoder.encode(["a c g t a c g t", "a", ""])
    assert ids.shape == (3, 3)
    assert np.count_nonzero(ids, axis=1).tolist() == [3, 1, 0]


@every_kind
def test_an_object_array_is_encoded_like_a_list(kind):
    encoder = fit_encoder(kind, TEXTS)
    assert np.array_equal(encoder.encode(np.array(TEXTS, dtype=object)), encoder.encode(TEXTS))


@every_kind
@given(seen=texts, others=texts)
def test_any_text_becomes_ids_in_range(kind, seen, others):
    try:
        encoder = fit_encoder(kind, seen, num_ids=16)
    except DataError:
        assert not any(list(ENCODERS[kind].split(text)) for text in seen)
        return
    ids = read_back(encoder).encode(others)
    assert ids.shape == (len(others), encoder.max_length)
    assert str(ids.dtype) == encoder.dtype
    assert ids.max(initial=0) < encoder.num_ids <= 16
    assert np.array_equal(ids, encoder.encode(others))


@every_kind
def test_texts_without_a_symbol_are_refused(kind):
    with pytest.raises(DataError, match=f"expected texts to build an encoder of {kind} on, got 2 without"):
        fit_encoder(kind, ["", "  "])


def test_words_are_lower_case_and_the_most_frequent_come_first():
    assert fit_encoder("words", TEXTS).symbols[:4] == ("cat", "the", "a", "acgt")


def test_the_vocabulary_is_bounded_with_the_reserved_ids():
    encoder = fit_encoder("words", TEXTS, num_ids=4)
    assert encoder.symbols == ("cat", "the")
    assert encoder.num_ids == 4


def test_letters_are_upper_case_in_the_order_of_the_alphabet():
    encoder = fit_encoder("letters", ["gat tac", "A\nC"])
    assert encoder.symbols == ("A", "C", "G", "T")
    assert encoder.encode(["ACGTn"])[0, :5].tolist() == [2, 3, 4, 5, UNKNOWN]


def test_a_letter_that_is_an_accident_gets_no_id():
    assert fit_encoder("letters", ["ACGT" * 500 + "N"]).symbols == ("A", "C", "G", "T")


def test_few_ids_take_a_byte_and_many_two():
    assert fit_encoder("letters", ["ACGT"]).dtype == "uint8"
    assert fit_encoder("words", [" ".join(f"w{i}" for i in range(300))]).dtype == "int16"


def test_the_length_covers_most_texts_whole():
    lengths = [5] * 96 + [400] * 4
    assert fit_encoder("words", ["w " * length for length in lengths]).max_length == 8


def test_the_length_is_bounded_by_the_kind():
    assert fit_encoder("words", ["w " * 3000] * 3).max_length == ENCODERS["words"].longest


def test_every_raw_task_has_an_encoder():
    assert set(ENCODER_OF_TASK) == {"text", "sequence"}
    assert set(ENCODER_OF_TASK.values()) <= set(ENCODERS)


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(ConfigError, match="unknown encoder 'word'; did you mean 'words'"):
        fit_encoder("word", TEXTS)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"kind": "syllables"},
        {"kind": ["words"]},
        {"max_length": 0},
        {"max_length": 1 << 40},
        {"max_length": True},
        {"symbols": "abc"},
        {"symbols": ["a", "a"]},
        {"symbols": ["a", ""]},
        {"symbols": [1]},
        {"symbols": [str(i) for i in range(40_000)]},
    ],
)
def test_json_that_no_encoder_writes_is_refused(change):
    document = json.loads(Encoder("words", ("a", "b"), 4).to_json()) | change
    with pytest.raises(DataError, match="here is no encoder of format 1"):
        encoder_from_json(json.dumps(document).encode(), origin="here")


@given(content=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_other_bytes_are_refused(content):
    with pytest.raises(DataError, match="is no encoder"):
        encoder_from_json(content, origin="here")


def test_deep_json_is_refused():
    with pytest.raises(DataError, match="is no encoder"):
        encoder_from_json(b"[" * 100_000, origin="here")
