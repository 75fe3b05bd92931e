"""What is done to samples, in whole numbers or in single float operations: the same bits everywhere.

References: Um et al. 2017, arXiv:1706.00527 (jitter, scaling and shifts of sensor series);
Iyyer et al. 2015 (words dropped); Zhang et al. 2018, "mixup", arXiv:1710.09412, and Yun et
al. 2019, "CutMix", arXiv:1905.04899 (here along the words or letters).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedstill.common.encoders import PADDING, UNKNOWN
from fedstill.common.models.inputs import InputSpec
from fedstill.common.views.draws import BELL_SPREAD, Words, draw_bell, draw_below

Array = NDArray[Any]
Whole = NDArray[np.int64]

# Noise as a share of a channel's spread, and the most that a series is scaled up or down, in 1/1024.
JITTER = 0.05
_MAX_GAIN = 102
# Words and letters that are dropped, of 65,536. No k-mer goes across an unknown letter, so few are.
_DROPPED = {"text": 13_107, "sequence": 3_277}
# Words per image or series that say where it is shifted to, whether it is mirrored, how it is scaled.
NUM_HEADER_WORDS = 4


def shift_reach(height: int, width: int) -> int:
    """Says by how many pixels images are shifted at most."""
    return max(1, min(height, width) // 14)


def shift_images(x_B: Array, up_B: Whole, left_B: Whole, *, mirrored_B: Array | None = None) -> Array:
    """Shifts each image; edges are repeated.

    Args:
        x_B: Images (B, H, W) or (B, H, W, C).
        up_B: Pixels that each is moved up by, or down where below 0, (B,).
        left_B: Pixels to the left, or to the right where below 0, (B,).
        mirrored_B: Which images are mirrored left to right first, bool (B,); None: none.

    Returns:
        Shifted copies of the same shape and type.
    """
    height, width = x_B.shape[1:3]
    rows = np.clip(np.arange(height) + up_B[:, None], 0, height - 1)
    columns = np.clip(np.arange(width) + left_B[:, None], 0, width - 1)
    if mirrored_B is not None:
        columns = np.where(mirrored_B[:, None], width - 1 - columns, columns)
    shifted: Array = x_B[np.arange(len(x_B))[:, None, None], rows[:, :, None], columns[:, None, :]]
    return shifted


def change_images(x_B: Array, words: Words, spec: InputSpec, *, flips: bool) -> Array:
    """Shifts images by up to a fourteenth of their side, and mirrors every other one if allowed."""
    channels_first = spec.layout == "CHW"
    images = np.moveaxis(x_B, 1, 3) if channels_first else x_B
    reach = shift_reach(*images.shape[1:3])
    up_B, left_B = (draw_below(words[:, index], 2 * reach + 1) - reach for index in (0, 1))
    mirrored_B = (words[:, 2] >> np.uint64(63)).astype(np.bool_) if flips else None
    shifted = shift_images(images, up_B, left_B, mirrored_B=mirrored_B)
    return np.ascontiguousarray(np.moveaxis(shifted, 3, 1) if channels_first else shifted)


def change_series(x_B: Array, words: Words, spec: InputSpec) -> Array:
    """Shifts series by up to a sixteenth of their time, scales them by up to a tenth, adds noise."""
    axis = 1 + spec.layout.index("T")
    length = x_B.shape[axis]
    reach = length // 16
    shift_B = draw_below(words[:, 0], 2 * reach + 1) - reach
    times = np.clip(np.arange(length) + shift_B[:, None], 0, length - 1)
    shape = (len(x_B), length, 1) if axis == 1 else (len(x_B), 1, length)
    shifted = np.take_along_axis(x_B, times.reshape(shape), axis=axis)
    gain_B = 1024 - _MAX_GAIN + draw_below(words[:, 1], 2 * _MAX_GAIN + 1)
    return _add_noise(shifted, gain_B, words[:, NUM_HEADER_WORDS:], spec)


def change_table(x_B: Array, words: Words, spec: InputSpec) -> Array:
    """Adds noise to each column."""
    return _add_noise(x_B, np.full(len(x_B), 1024, np.int64), words[:, NUM_HEADER_WORDS:], spec)


def _add_noise(x_B: Array, gain_B: Whole, words: Words, spec: InputSpec) -> Array:
    spread = np.array(spec.std, np.float64) / spec.scale * (JITTER / BELL_SPREAD)
    axis = spec.channel_axis
    amplitude = spread.reshape([-1 if index == axis else 1 for index in range(len(spec.sample_shape))])
    noise_B = draw_bell(words).reshape(x_B.shape)
    gain = gain_B.reshape(-1, *(1 for _ in spec.sample_shape))
    if x_B.dtype.kind == "f":
        # One rounding per step, none of them fused: IEEE 754 leaves no choice.
        scaled: Array = x_B * (gain.astype(x_B.dtype) / x_B.dtype.type(1024))
        noisy: Array = scaled + noise_B.astype(x_B.dtype) * amplitude.astype(x_B.dtype)
        return noisy
    fixed = np.rint(np.abs(amplitude) * 2**20).astype(np.int64)
    total = ((x_B.astype(np.int64) * gain + 512) >> 10) + ((noise_B * fixed + 2**19) >> 20)
    limits = np.iinfo(x_B.dtype)
    changed: Array = np.clip(total, limits.min, limits.max).astype(x_B.dtype)
    return changed


def drop_symbols(ids_B: Array, words: Words, spec: InputSpec) -> Array:
    """Drops words, or makes letters unknown, at random; padding stays."""
    bits = np.stack([(words >> np.uint64(shift)) & np.uint64(0xFFFF) for shift in (0, 16, 32, 48)], axis=2)
    dropped = bits.reshape(len(ids_B), -1)[:, : ids_B.shape[1]] < np.uint64(_DROPPED[spec.task])
    instead = ids_B.dtype.type(PADDING if spec.task == "text" else UNKNOWN)
    return np.where(dropped & (ids_B != PADDING), instead, ids_B)


def count_words(spec: InputSpec) -> int:
    """Counts the words that changing one sample takes."""
    if spec.num_ids:
        return -(-spec.sample_shape[0] // 4)
    size = 0 if spec.task == "image" else math.prod(spec.sample_shape)
    return NUM_HEADER_WORDS + size


def change_samples(x_B: Array, words: Words, spec: InputSpec, *, flips: bool) -> Array:
    """Changes samples as suits their kind.

    Args:
        x_B: Raw samples (B, *sample_shape), or ids of words or letters (B, T).
        words: `count_words` random words per sample.
        spec: What samples look like; noise is measured by its spread per channel.
        flips: Whether images may be mirrored.

    Returns:
        Samples of the same shape and type.
    """
    if spec.num_ids:
        return drop_symbols(x_B, words, spec)
    if spec.task == "image":
        return change_images(x_B, words, spec, flips=flips)
    return (change_series if spec.task == "series" else change_table)(x_B, words, spec)


def mix_samples(x_B: Array, partner_B: Array, share_B: Whole, *, holds_ids: bool) -> Array:
    """Mixes samples with others.

    Args:
        x_B: Samples (B, *sample_shape).
        partner_B: What each is mixed with, of the same shape and type.
        share_B: Share of `x_B` in the mixture, of 256, (B,).
        holds_ids: Words and letters cannot be averaged: the beginning is the one's, the
            rest the other's.

    Returns:
        Mixtures, rounded half up where samples are whole numbers.
    """
    if holds_ids:
        length_B = (x_B != PADDING).sum(axis=1)
        cut_B = (length_B * share_B) >> 8
        return np.where(np.arange(x_B.shape[1]) < cut_B[:, None], x_B, partner_B)
    share = share_B.reshape(-1, *(1 for _ in x_B.shape[1:]))
    if x_B.dtype.kind == "f":
        part = share.astype(x_B.dtype) / x_B.dtype.type(256)
        mixed: Array = x_B * part + partner_B * (x_B.dtype.type(1) - part)
        return mixed
    total = (x_B.astype(np.int64) * share + partner_B.astype(np.int64) * (256 - share) + 128) >> 8
    return total.astype(x_B.dtype)
