"""Random numbers by position: a function of (seed, view, sample, place) and of nothing else.

A generator's stream may change with NumPy's version and has to be drawn in order; a hash
of integers is the same everywhere and gives any sample of any view alone.

Reference: Steele, Lea, Flood 2014, "Fast Splittable Pseudorandom Number Generators"
(SplitMix64), doi:10.1145/2660193.2660195.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

_STEP = 0x9E3779B97F4A7C15
_WORD = 2**64 - 1


def mix_words(words: Words) -> Words:
    """Scrambles 64-bit words one by one (SplitMix64's last step)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def draw_words(seed: int, purpose: int, view_B: Words, sample_B: Words, *, num_words: int) -> Words:
    """Draws words for samples of views.

    Args:
        seed: Seed of all views, 0 or more.
        purpose: Number of the use that is made of the words.
        view_B: View of each row, uint64 (B,).
        sample_B: Sample of each row, uint64 (B,).
        num_words: Words per row.

    Returns:
        Uniform words (B, num_words), uint64.
    """
    key = mix_words(np.array([(seed + purpose * _STEP) & _WORD], np.uint64))
    row_B = mix_words(key ^ mix_words(view_B * np.uint64(_STEP) + np.uint64(1)))
    row_B = mix_words(row_B ^ mix_words(sample_B * np.uint64(_STEP) + np.uint64(2)))
    places = np.arange(1, num_words + 1, dtype=np.uint64) * np.uint64(_STEP)
    return mix_words(row_B[:, None] + places)


def draw_below(words: Words, limit: int) -> NDArray[np.int64]:
    """Brings words to whole numbers in [0, limit); limit of 2**31 at most."""
    return ((words >> np.uint64(33)) * np.uint64(limit) >> np.uint64(31)).astype(np.int64)


def draw_bell(words: Words) -> NDArray[np.int64]:
    """Brings words to whole numbers of a bell shape around 0 (the sum of four uniform ones).

    They lie within ±262,140 and have the standard deviation `BELL_SPREAD`.
    """
    total = np.zeros(words.shape, np.int64)
    for shift in (0, 16, 32, 48):
        total += ((words >> np.uint64(shift)) & np.uint64(0xFFFF)).astype(np.int64)
    return 2 * total - 4 * 0xFFFF


BELL_SPREAD = 2 * ((2**32 - 1) / 3) ** 0.5
