"""Encoders made of a tokenizer.json, as the library itself writes them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from fedstill.common.encoders import PADDING, Encoder, encoder_from_json, read_tokenizer
from fedstill.common.errors import DataError

TEXTS = ["the cat sat on the mat", "a dog ran", "the dog sat", "cats and dogs ran and ran and ran and ran"]


def train(path: Path, *, special: tuple[str, ...] = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")) -> Tokenizer:
    """Trains a small WordPiece tokenizer and saves it as users do, with settings of its own."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordPieceTrainer(vocab_size=80, special_tokens=list(special), show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.enable_padding(length=64)
    tokenizer.enable_truncation(3)
    tokenizer.save(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"


@pytest.fixture(scope="module")
def tokenizer(path: Path) -> Tokenizer:
    return train(path)


@pytest.fixture(scope="module")
def encoder(path: Path, tokenizer: Tokenizer) -> Encoder:
    return read_tokenizer(path, TEXTS, max_length=8)


def test_ids_are_the_files_and_its_size_is_theirs(encoder: Encoder, tokenizer: Tokenizer) -> None:
    ids_ST = encoder.encode(TEXTS[:2])
    for row, text in zip(ids_ST, TEXTS, strict=False):
        expected = tokenizer.encode(text).ids
        assert row.tolist() == expected + [PADDING] * (8 - len(expected))
    assert encoder.num_ids == tokenizer.get_vocab_size()
    assert ids_ST.dtype == np.uint8
    assert encoder.describe(tokenizer.token_to_id("cat")) == "cat"


def test_a_long_text_is_cut_and_keeps_its_last_token(encoder: Encoder, tokenizer: Tokenizer) -> None:
    (row,) = encoder.encode(TEXTS[3:])
    assert len(tokenizer.encode(TEXTS[3]).ids) > 8
    assert row[0] == tokenizer.token_to_id("[CLS]")
    assert row[-1] == tokenizer.token_to_id("[SEP]")


def test_ids_move_up_where_0_is_no_padding(tmp_path: Path) -> None:
    tokenizer = train(tmp_path / "t.json", special=("[UNK]", "[CLS]", "[SEP]", "[PAD]"))
    encoder = read_tokenizer(tmp_path / "t.json", TEXTS, max_length=4)
    expected = [number + 1 for number in tokenizer.encode("cat").ids]
    assert encoder.encode(["cat"]).tolist() == [[*expected, PADDING]]
    assert encoder.num_ids == tokenizer.get_vocab_size() + 1
    assert encoder.describe(tokenizer.token_to_id("cat") + 1) == "cat"
    assert encoder.describe(PADDING) == "·"


def test_the_length_is_chosen_by_the_texts(path: Path, tokenizer: Tokenizer) -> None:
    longest = max(len(tokenizer.encode(text).ids) for text in TEXTS)
    assert read_tokenizer(path, TEXTS).max_length == -(-longest // 8) * 8


def test_it_comes_back_from_its_json(encoder: Encoder) -> None:
    again = encoder_from_json(encoder.to_json(), origin="test")
    assert again == encoder
    assert again.to_json() == encoder.to_json()
    np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))


@pytest.mark.parametrize("change", [{"max_length": 0}, {"max_length": "8"}, {"tokenizer": []}])
def test_altered_json_is_refused(encoder: Encoder, change: dict[str, object]) -> None:
    document = json.loads(encoder.to_json()) | change
    with pytest.raises(DataError, match="test is no encoder of format 1"):
        encoder_from_json(json.dumps(document).encode(), origin="test")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"bad\.json is no tokenizer\.json: Expecting"),
        (b"\xff\xfe\x00", r"bad\.json is no tokenizer\.json: it is no text"),
        (b"{}", r"bad\.json is no tokenizer\.json that this version reads: Model missing"),
        (b"[1]", r"bad\.json is no tokenizer\.json that this version reads"),
    ],
)
def test_a_bad_file_is_told_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_tokenizer(tmp_path / "bad.json", TEXTS, max_length=8)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.tokenizer: cannot read .*none\.json: No such file"):
        read_tokenizer(tmp_path / "none.json", TEXTS)


def test_more_tokens_than_there_are_ids_are_refused(tmp_path: Path) -> None:
    words = {f"w{number}": number for number in range(2**15)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.save(str(tmp_path / "large.json"))
    with pytest.raises(DataError, match="has 32,768 tokens; expected 1 to 32,767"):
        read_tokenizer(tmp_path / "large.json", TEXTS, max_length=8)


def test_a_length_that_special_tokens_fill_is_refused(path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match=r"adds 2 special tokens to a text of 2: raise data\.max_length"):
        read_tokenizer(path, TEXTS, max_length=2)


def test_without_the_package_the_extra_is_named(path: Path, tokenizer: Tokenizer) -> None:
    code = (
        "import sys; sys.modules['tokenizers'] = None\n"
        "from pathlib import Path\n"
        "from fedstill.common.encoders import read_tokenizer\n"
        "from fedstill.common.errors import UsageError\n"
        f"try:\n    read_tokenizer(Path({str(path)!r}), [], max_length=8)\n"
        "except UsageError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "needs the package tokenizers" in done.stdout, done.stderr
    assert "[text]'" in done.stdout
    assert done.stdout.count("\n") == 1
