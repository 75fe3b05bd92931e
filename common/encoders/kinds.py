"""How a text falls into symbols, and which symbols are worth an id."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_WORD = re.compile(r"\w+")
# Below this share of all letters a letter is an accident, such as the N of an unread base.
_LEAST_SHARE = 1e-3


@dataclass(frozen=True)
class EncoderKind:
    """One entry of the registry."""

    split: Callable[[str], Sequence[str]]
    """Symbols of one text, in order."""
    choose: Callable[[Counter[str]], list[str]]
    """Symbols that deserve an id, the most frequent first, from how often each occurs."""
    longest: int
    """Symbols per sample at most, where the length is chosen by the data."""


def split_words(text: str) -> list[str]:
    """Splits text into its words, in lower case; signs between them are dropped."""
    return _WORD.findall(text.lower())


def split_letters(text: str) -> str:
    """Takes a sequence letter by letter, in upper case, without white space."""
    return "".join(text.split()).upper()


def _by_frequency(counts: Counter[str]) -> list[str]:
    # Words of equal frequency stand in their own order, or the ids would depend on that of the texts.
    return sorted(counts, key=lambda symbol: (-counts[symbol], symbol))


def _without_accidents(counts: Counter[str]) -> list[str]:
    least = _LEAST_SHARE * counts.total()
    return sorted(symbol for symbol, count in counts.items() if count >= least)


ENCODERS: dict[str, EncoderKind] = {
    "words": EncoderKind(split_words, _by_frequency, longest=512),
    "letters": EncoderKind(split_letters, _without_accidents, longest=4096),
}
ENCODER_OF_TASK = {"text": "words", "sequence": "letters"}
