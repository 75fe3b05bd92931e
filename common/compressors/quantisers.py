"""Weights of 4 bits and of 1 bit: which values they may take.

4 bits: groups of neighbours in a row share a scale, as in Dettmers & Zettlemoyer 2023
(arXiv:2212.09720). 1 bit: sign times the row's mean magnitude (Rastegari 2016, XNOR-Net,
1603.05279, weights only), in all layers but the first and the last. Both give back what
they gave already, so a model that trained with such weights is stored as it trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from fedstill.common.compressors.plan import CompressionPlan
from fedstill.common.compressors.structure import Convolution, Weighted, weighted_layers

MAX_INT4 = 7
_SHRINKS = (1.0, 0.92, 0.84, 0.76, 0.68)


def quantise_groups(rows_RK: np.ndarray, *, group_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rounds rows to 4 bits, with one scale per group.

    Of five scales the one of least squared error is taken: clipping a group's largest
    weight can serve the others.

    Args:
        rows_RK: Weights (R, K), float32.
        group_size: Neighbours in a row that share a scale.

    Returns:
        Integers (R, K), int8 in -7 … 7, and scales (R, ceil(K / group_size)), float16.
    """
    num_rows, length = rows_RK.shape
    padded = np.pad(rows_RK, ((0, 0), (0, -length % group_size))).reshape(num_rows, -1, group_size)
    largest = np.abs(padded).max(axis=2)
    best = np.full(largest.shape, np.inf)
    scales = np.ones(largest.shape, np.float16)
    for shrink in _SHRINKS:
        # A scale that float16 rounds to zero would divide by it.
        scale = np.maximum(largest * (shrink / MAX_INT4), 6e-8).astype(np.float16)
        wide = scale.astype(np.float32)[:, :, None]
        error = np.square(np.clip(np.rint(padded / wide), -MAX_INT4, MAX_INT4) * wide - padded).sum(axis=2)
        # Only what is clearly better, so that rounding a scale does not change the choice.
        better = error < best * (1 - 1e-3) - 1e-12
        best, scales = np.where(better, error, best), np.where(better, scale, scales)
    codes = np.clip(np.rint(padded / scales.astype(np.float32)[:, :, None]), -MAX_INT4, MAX_INT4)
    return codes.reshape(num_rows, -1)[:, :length].astype(np.int8), scales


def restore_groups(codes_RK: np.ndarray, scales: np.ndarray, *, group_size: int) -> np.ndarray:
    """Brings 4-bit integers back to float32 (R, K)."""
    wide = np.repeat(scales.astype(np.float32), group_size, axis=1)[:, : codes_RK.shape[1]]
    values: np.ndarray = codes_RK * wide
    return values


def binarise_rows(rows_RK: np.ndarray) -> np.ndarray:
    """Replaces each weight by its sign times the mean magnitude of its row; zeros count as positive."""
    scale = np.abs(rows_RK).mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
    values: np.ndarray = np.where(rows_RK < 0, -scale, scale)
    return values


def quantised_layers(model: nn.Module, *, bits: int) -> list[Weighted]:
    """Lists the layers whose weights have few bits: all at 4, the inner ones, not depthwise, at 1."""
    layers = list(weighted_layers(model).values())
    if bits == 4:
        return layers
    return [layer for layer in layers[1:-1] if not (isinstance(layer, Convolution) and layer.groups > 1)]


def quantise_weight(weight: torch.Tensor, plan: CompressionPlan) -> torch.Tensor:
    """Computes what weights of a plan's few bits are as floats, in the same shape."""
    rows = weight.detach().flatten(1).numpy()
    if plan.bits == 1:
        values = binarise_rows(rows)
    else:
        codes, scales = quantise_groups(rows, group_size=plan.group_size)
        values = restore_groups(codes, scales, group_size=plan.group_size)
    return torch.from_numpy(values).reshape(weight.shape)


@contextmanager
def quantised_weights(model: nn.Module, plan: CompressionPlan) -> Iterator[None]:
    """Puts weights of few bits into a model for a block, and the floats back after it.

    Training inside computes the loss of the few bits; its gradients, taken as those of
    the floats (straight-through, Bengio 2013, 1308.3432), stay when the block ends.
    """
    if not plan.qat:
        yield
        return
    layers = quantised_layers(model, bits=plan.bits)
    floats = [layer.weight.detach().clone() for layer in layers]
    with torch.no_grad():
        for layer, weight in zip(layers, floats, strict=True):
            layer.weight.copy_(quantise_weight(weight, plan))
    try:
        yield
    finally:
        with torch.no_grad():
            for layer, weight in zip(layers, floats, strict=True):
                layer.weight.copy_(weight)
