"""Low rank: a layer becomes two thinner ones, by the singular values of its weights.

Reference: Denton et al. 2014, arXiv:1404.0736; for convolutions the channel decomposition of
Zhang et al. 2015, arXiv:1505.06798 (without its non-linear fit): W (out, in·k·k) = U·S·V becomes
a convolution with V and a 1×1 convolution with U. The training that follows recovers.
"""

from __future__ import annotations

import torch
from torch import nn

from fedstill.common.compressors.structure import Convolution, Pair, make_pair, replace_layer, weighted_layers


def choose_rank(values: torch.Tensor, *, energy: float, most: int) -> int:
    """Chooses the least rank that keeps a part of the squared singular values.

    Args:
        values: Singular values, falling.
        energy: Part to keep, 0 to 1.
        most: Rank at most; 0 is no limit.

    Returns:
        The rank, one at least.
    """
    kept = torch.cumsum(values.double().square(), 0)
    rank = int(torch.searchsorted(kept, energy * kept[-1] * (1 - 1e-12))) + 1
    rank = min(rank, len(values))
    return max(1, min(rank, most) if most else rank)


def factorise_layers(model: nn.Module, *, energy: float, most: int) -> bool:
    """Replaces every layer whose two factors are smaller than itself.

    Args:
        model: Changed in place; its last layer, whose outputs are the classes, and
            grouped convolutions stay as they are, and so do pairs that exist already, and the layer
            inside `nn.MultiheadAttention`, whose weight is read past it.
        energy: As for `choose_rank`.
        most: As for `choose_rank`.

    Returns:
        Whether anything was replaced; parameters are new ones then.
    """
    layers = weighted_layers(model)
    replaced = False
    for name, layer in list(layers.items())[:-1]:
        parent = model.get_submodule(name.rpartition(".")[0])
        if isinstance(parent, Pair | nn.MultiheadAttention) or (
            isinstance(layer, Convolution) and layer.groups > 1
        ):
            continue
        weight: torch.Tensor = layer.weight.detach()
        matrix = weight.flatten(1).double()
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        rank = choose_rank(values, energy=energy, most=most)
        if rank * (matrix.shape[0] + matrix.shape[1]) >= matrix.numel():
            continue
        root = values[:rank].sqrt()
        pair = make_pair(layer, rank=rank)
        first, second = weighted_layers(pair).values()
        with torch.no_grad():
            first.weight.copy_((root[:, None] * right[:rank]).reshape(first.weight.shape))
            second.weight.copy_((left[:, :rank] * root).reshape(second.weight.shape))
            if layer.bias is not None and second.bias is not None:
                second.bias.copy_(layer.bias)
        replace_layer(model, name, pair.train(layer.training))
        replaced = True
    return replaced
