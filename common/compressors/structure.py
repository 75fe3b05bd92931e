"""Shapes of a compressed model: read off its weights, so that it reloads without code or pickle.

A pruned layer has smaller weights under the same name; a layer of low rank has two
under `NAME.0` and `NAME.1`. The names and shapes in a safetensors file therefore say
all that there is to know, and nothing else has to be kept or trusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from fedstill.common.errors import CheckpointError
from fedstill.common.training import load_weights

Shapes = Mapping[str, tuple[int, ...]]
Convolution = nn.Conv1d | nn.Conv2d
Weighted = nn.Linear | nn.Conv1d | nn.Conv2d


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Lists the shapes of a model's state by name."""
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def load_compressed(model: nn.Module, path: Path) -> None:
    """Reads the weights of a model that may have been pruned or factorised since it was built.

    Args:
        model: A fresh model of the same design; takes the shapes of the file.
        path: File that `save_weights` wrote.

    Raises:
        CheckpointError: The file is missing or damaged, or is of another design.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as content:
            shapes = {name: tuple(content.get_slice(name).get_shape()) for name in content.keys()}  # noqa: SIM118
    except OSError as error:
        raise CheckpointError(f"cannot read weights {path}: {error.strerror or 'no such file'}") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path} is no valid safetensors file: {error}") from None
    reshape_model(model, shapes, origin=str(path))
    load_weights(model, path)


def reshape_model(model: nn.Module, shapes: Shapes, *, origin: str) -> None:
    """Gives a fresh model the shapes of a compressed one; the values are left undefined.

    Args:
        model: Changed in place.
        shapes: What `shapes_of` returned for the compressed model.
        origin: What errors call the compressed model.

    Raises:
        CheckpointError: A layer would grow, or is missing.
    """
    if shapes == shapes_of(model):
        return
    for name, layer in [
        item for item in model.named_modules() if isinstance(item[1], nn.Linear | Convolution)
    ]:
        if f"{name}.weight" not in shapes and f"{name}.0.weight" in shapes:
            found = shapes[f"{name}.0.weight"]
            if not found or not 0 < found[0] <= min(layer.weight.shape[0], layer.weight[0].numel()):
                raise CheckpointError(f"{origin} does not fit the model: {name} has a rank of {found[:1]}")
            replace_layer(model, name, make_pair(layer, rank=found[0]))
    for name, module in model.named_modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for key, value in own:
            full = f"{name}.{key}" if name else key
            if full in shapes and shapes[full] != tuple(value.shape):
                _shrink(module, key, shapes[full], name=full, origin=origin)
        _adjust(module)


def _shrink(module: nn.Module, key: str, shape: tuple[int, ...], *, name: str, origin: str) -> None:
    value = getattr(module, key)
    fits = len(shape) == value.dim() and all(
        0 < size <= most for size, most in zip(shape, value.shape, strict=True)
    )
    if not fits:
        raise CheckpointError(
            f"{origin} does not fit the model: {name} should be {tuple(value.shape)} or smaller,"
            f" the file has {shape}"
        )
    if isinstance(value, nn.Parameter):
        setattr(
            module,
            key,
            nn.Parameter(torch.zeros(shape, dtype=value.dtype), requires_grad=value.requires_grad),
        )
    else:
        setattr(module, key, torch.zeros(shape, dtype=value.dtype))


def _adjust(module: nn.Module) -> None:
    """Brings the sizes that a layer keeps beside its weights in line with them."""
    if isinstance(module, Convolution):
        if module.groups > 1:  # depthwise: each output has its own input
            module.groups = module.weight.shape[0]
        module.out_channels, module.in_channels = (
            module.weight.shape[0],
            module.weight.shape[1] * module.groups,
        )
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        module.num_features = module.weight.shape[0]
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = module.weight.shape


class Pair(nn.Sequential):
    """Two layers that stand for one of low rank."""


def make_pair(layer: Weighted, *, rank: int) -> Pair:
    """Makes the two layers, values undefined, that stand for one of low rank.

    Args:
        layer: Linear (out, in) or a convolution, not grouped.
        rank: Channels between the two.

    Returns:
        Linear: in → rank → out. Convolution: the same reach into `rank` channels, then 1×1.
    """
    if isinstance(layer, nn.Linear):
        return Pair(
            nn.Linear(layer.in_features, rank, bias=False),
            nn.Linear(rank, layer.out_features, bias=layer.bias is not None),
        )
    return Pair(
        type(layer)(
            layer.in_channels,
            rank,
            layer.kernel_size,  # type: ignore[arg-type]
            stride=layer.stride,  # type: ignore[arg-type]
            padding=layer.padding,  # type: ignore[arg-type]
            dilation=layer.dilation,  # type: ignore[arg-type]
            bias=False,
        ),
        type(layer)(rank, layer.out_channels, 1, bias=layer.bias is not None),
    )


def replace_layer(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Puts another layer in the place of a named one."""
    parent, _, key = name.rpartition(".")
    setattr(model.get_submodule(parent), key, layer)


def weighted_layers(model: nn.Module) -> dict[str, Weighted]:
    """Lists the linear and convolutional layers by name, in the order of the model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Weighted)}
