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

    Symbol i of `symbols` has the id i + 2. A longer text is cut off at `max_length`
    symbols, a shorter one is filled up with padding.
    """

    kind: str
    symbols: tuple[str, ...]
    max_length: int

    @property
    def num_ids(self) -> int:
        """Ids that there are, padding and unknown among them."""
        return NUM_RESERVED + len(self.symbols)

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
        split, ids = ENCODERS[self.kind].split, self._ids
        rows = [[ids.get(symbol, UNKNOWN) for symbol in split(text)[: self.max_length]] for text in texts_S]
        encoded = np.full((len(rows), self.max_length), PADDING, self.dtype)
        for row, found in zip(encoded, rows, strict=True):
            row[: len(found)] = found
        return encoded

    def to_json(self) -> bytes:
        """Writes the encoder as UTF-8 JSON; equal encoders give the same bytes."""
        document = {
            "format": FORMAT,
            "kind": self.kind,
            "max_length": self.max_length,
            "symbols": self.symbols,
        }
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def encoder_from_json(content: bytes, *, origin: str) -> Encoder:
    """Reads what `Encoder.to_json` wrote.

    Args:
        content: The JSON.
        origin: Where it came from, for the message.

    Returns:
        The encoder.

    Raises:
        DataError: No JSON, another format, or a value that no encoder has.
    """
    try:
        document = json.loads(content.decode("utf-8"))
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
