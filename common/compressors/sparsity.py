"""Sparsity: weights that are zero, wherever they lie or n of m neighbours.

Reference: Lee et al. 2021, "Layer-adaptive sparsity for the Magnitude-based Pruning" (LAMP),
arXiv:2010.07611, for which weights go; Mishra et al. 2021, arXiv:2104.08378, for n:m. Dense
kernels compute with zeros as with other numbers: only storage and wire shrink, with the
bitmasks of `fedstill.common.packing`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from fedstill.common.compressors.plan import parse_pattern
from fedstill.common.compressors.structure import weighted_layers

Masks = dict[str, torch.Tensor]


def lamp_scores(weight: torch.Tensor) -> torch.Tensor:
    """Computes each weight's square over the sum of the squares that are not smaller, in its layer.

    Args:
        weight: A layer's weights, any shape.

    Returns:
        Scores of the same shape, in [0, 1]; the largest weight has 1.
    """
    squares, order = weight.detach().double().flatten().square().sort(stable=True)
    remaining = squares.flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(squares)
    scores[order] = squares / remaining.clamp(min=1e-300)
    return scores.reshape(weight.shape)


def keep_largest(weights: Mapping[str, torch.Tensor], *, sparsity: float) -> Masks:
    """Masks the weights of lowest score over all layers together.

    Args:
        weights: Weights by layer.
        sparsity: Part of all weights that is masked, 0 to 1; each layer keeps one at least.

    Returns:
        Boolean masks by layer, True where a weight stays.
    """
    scores = {name: lamp_scores(weight) for name, weight in weights.items()}
    together = torch.cat([score.flatten() for score in scores.values()])
    num_gone = min(round(sparsity * len(together)), len(together) - len(weights))
    stays = torch.ones(len(together), dtype=torch.bool)
    stays[together.argsort(stable=True)[:num_gone]] = False
    parts = torch.split(stays, [score.numel() for score in scores.values()])
    return {
        name: part.reshape(score.shape) for (name, score), part in zip(scores.items(), parts, strict=True)
    }


def keep_of_neighbours(weight: torch.Tensor, *, kept: int, size: int) -> torch.Tensor:
    """Masks all but the `kept` largest of each `size` weights that follow each other in a row.

    Args:
        weight: A layer's weights (out, …); rows are flattened, the last group may be short.
        kept: Weights that stay in each group.
        size: Weights of a group.

    Returns:
        The boolean mask, True where a weight stays.
    """
    rows = weight.detach().flatten(1).abs()
    padded = nn.functional.pad(rows, (0, -rows.shape[1] % size), value=-1.0)
    groups = padded.reshape(len(rows), -1, size)
    order = groups.argsort(dim=2, descending=True, stable=True)
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(2, order[:, :, :kept], True)
    return mask.reshape(len(rows), -1)[:, : rows.shape[1]].reshape(weight.shape)


def choose_masks(model: nn.Module, *, sparsity: float, pattern: str, share: float) -> Masks:
    """Chooses the weights of linear and convolutional layers that stay.

    Args:
        model: The model, its weights as they are now.
        sparsity: Part of the weights that is zero in the end, where nothing else is said.
        pattern: "unstructured", or "n:m".
        share: Part of the final amount that is to go now, 0 to 1.

    Returns:
        Masks by layer.
    """
    weights = {name: layer.weight for name, layer in weighted_layers(model).items()}
    groups = parse_pattern(pattern)
    if groups is None:
        return keep_largest(weights, sparsity=sparsity * share)
    kept, size = groups
    now = size - round((size - kept) * share)
    return {name: keep_of_neighbours(weight, kept=now, size=size) for name, weight in weights.items()}


def present_masks(model: nn.Module) -> Masks:
    """Masks what is zero already, in layers that are not zero altogether as some are built."""
    found = {name: layer.weight.detach() != 0 for name, layer in weighted_layers(model).items()}
    return {name: mask for name, mask in found.items() if mask.any() and not mask.all()}


def apply_masks(model: nn.Module, masks: Masks) -> None:
    """Makes masked weights zero; masks whose layer has another shape by now are left out."""
    for name, layer in weighted_layers(model).items():
        mask = masks.get(name)
        if mask is not None and mask.shape == layer.weight.shape:
            with torch.no_grad():
                layer.weight.mul_(mask)
