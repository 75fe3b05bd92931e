"""The frozen record of an encoder, and its JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedstill.common.encoders.kinds import ENCODERS
from fedstill.common.encoders.tokenizer import (
    KIND,
    begins_with_padding,
    list_tokens,
    open_tokenizer,
    shorten,
)
from fedstill.common.errors import DataError

FORMAT = 1
# Ids that no symbol has: what fills a short sample up, and what the encoder never met.
PADDING = 0
UNKNOWN = 1
NUM_RESERVED = 2
MAX_IDS = 2**15
MAX_LENGTH = 2**16


@dataclass(frozen=True)
class Encoder:
    """Turns raw texts into rows of ids, the same wherever it runs.

    Symbol i of `symbols` has the id i + `first_id`. A longer text is cut off at `max_length`
    symbols, a shorter one is filled up with padding.
    """

    kind: str
    symbols: tuple[str, ...]
    max_length: int
    tokenizer: str = ""
    """Content of a tokenizer.json that makes the symbols; empty where the kind does."""

    @property
    def first_id(self) -> int:
        """Id of the first symbol.

        2, behind padding and unknown. A tokenizer brings both itself: its tokens keep their ids where
        0 is its padding, and have the next ones where it is not, since 0 is padding to our models.
        """
        return NUM_RESERVED if not self.tokenizer else int(not begins_with_padding(self.symbols))

    @property
    def num_ids(self) -> int:
        """Ids that there are, padding and unknown among them."""
        return self.first_id + len(self.symbols)

    @property
    def dtype(self) -> str:
        """NumPy name of the narrowest published type that holds all ids."""
        return "uint8" if self.num_ids <= 2**8 else "int16"

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {symbol: index for index, symbol in enumerate(self.symbols, start=NUM_RESERVED)}

    def encode(self, texts_S: Iterable[str]) -> NDArray[Any]:
        """Encodes raw texts.

        Args:
            texts_S: Raw texts; an object array or any other iterable.

        Returns:
            Ids (S, max_length), uint8 or int16.
        """
        rows = self._tokenise(texts_S) if self.tokenizer else self._look_up(texts_S)
        encoded = np.full((len(rows), self.max_length), PADDING, self.dtype)
        for row, found in zip(encoded, rows, strict=True):
            row[: len(found)] = found
        return encoded

    def _look_up(self, texts_S: Iterable[str]) -> list[list[int]]:
        split, ids = ENCODERS[self.kind].split, self._ids
        return [[ids.get(symbol, UNKNOWN) for symbol in split(text)[: self.max_length]] for text in texts_S]

    def _tokenise(self, texts_S: Iterable[str]) -> list[list[int]]:
        first = self.first_id
        found = self._opened.encode_batch([str(text) for text in texts_S])
        return [[first + number for number in entry.ids] for entry in found]

    @cached_property
    def _opened(self) -> Any:
        tokenizer = open_tokenizer(self.tokenizer, origin="the encoder")
        tokenizer.enable_truncation(self.max_length)
        return tokenizer

    def describe(self, number: int) -> str:
        """Writes the symbol of an id; a dot where it has none."""
        index = number - self.first_id
        return (self.symbols[index] if 0 <= index < len(self.symbols) else "") or "·"

    def to_json(self) -> bytes:
        """Writes the encoder as UTF-8 JSON; equal encoders give the same bytes."""
        document: dict[str, Any] = {
            "format": FORMAT,
            "kind": self.kind,
            "max_length": self.max_length,
        }
        if self.tokenizer:
            document["tokenizer"] = json.loads(self.tokenizer)
        else:
            document["symbols"] = self.symbols
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def make_tokenizer_encoder(content: str, *, max_length: int, origin: str) -> Encoder:
    """Makes an encoder of a tokenizer.json.

    Args:
        content: What the file holds.
        max_length: Tokens per sample, special ones among them.
        origin: Where it came from, for messages.

    Returns:
        The encoder.

    Raises:
        UsageError: The package `tokenizers` is not installed.
        DataError: The content is none that the library reads, has more tokens than there are ids here,
            or its special ones alone are longer than a sample.
    """
    content = shorten(content, origin=origin)
    tokenizer = open_tokenizer(content, origin=origin)
    symbols = list_tokens(tokenizer)
    encoder = Encoder(KIND, symbols, max_length, content)
    if not symbols or encoder.num_ids > MAX_IDS:
        raise DataError(f"{origin} has {len(symbols):,} tokens; expected 1 to {MAX_IDS - 1:,}")
    num_special = tokenizer.num_special_tokens_to_add(is_pair=False)
    if num_special >= max_length:
        raise DataError(
            f"{origin} adds {num_special} special tokens to a text of {max_length}: raise data.max_length"
        )
    return encoder


def encoder_from_json(content: bytes, *, origin: str) -> Encoder:
    """Reads what `Encoder.to_json` wrote.

    Args:
        content: The JSON.
        origin: Where it came from, for the message.

    Returns:
        The encoder.

    Raises:
        DataError: No JSON, another format, or a value that no encoder has.
        UsageError: It holds a tokenizer, and the package `tokenizers` is not installed.
    """
    try:
        document = json.loads(content.decode("utf-8"))
        if document["format"] == FORMAT and document["kind"] == KIND:
            return _read_tokenizer(document, origin)
        kind, length, symbols = (document[key] for key in ("kind", "max_length", "symbols"))
        is_whole = (
            document["format"] == FORMAT
            and isinstance(kind, str)
            and kind in ENCODERS
            and type(length) is int
            and 0 < length <= MAX_LENGTH
            and isinstance(symbols, list)
            and all(isinstance(symbol, str) and symbol for symbol in symbols)
            and len(set(symbols)) == len(symbols) <= MAX_IDS - NUM_RESERVED
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        is_whole = False
    if not is_whole:
        raise DataError(
            f"{origin} is no encoder of format {FORMAT} that this version knows; fetch it again,"
            " or install the version that wrote it"
        )
    return Encoder(kind, tuple(symbols), length)


def _read_tokenizer(document: dict[str, Any], origin: str) -> Encoder:
    length, tokenizer = document["max_length"], document["tokenizer"]
    if type(length) is not int or not 0 < length <= MAX_LENGTH or not isinstance(tokenizer, dict):
        raise ValueError("max_length or tokenizer")
    return make_tokenizer_encoder(json.dumps(tokenizer), max_length=length, origin=origin)
