"""The layers of K students of one architecture, computed as one.

Samples lie last: activations are (K, *shape of a sample's, B). Each student's product is a matrix of weights
(outputs, inputs) times one of samples, so that one batched product serves all of them, channels stay before
places, and what is moved about lies in runs of B values. On 8×8 images that is ten times faster than one
student after the other, and three times faster than the same by `torch.func.vmap`, which makes grouped
convolutions of it.

What a student computes does not depend on who else is there: each product is one of its own, and the
rest goes value by value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from fedstill.common.models.inputs import Preprocess
from fedstill.common.models.series import MeanOverTime
from fedstill.common.models.text import BagOfWords

Layer = Callable[[Any, Sequence[torch.Tensor], torch.Tensor], torch.Tensor]
"""From a module of the first student, all students' parameters of it, each (K, *shape), and its input."""


class _Patches(torch.autograd.Function):
    """Takes the patches that a convolution looks at: (K, C, *places, B) to (K, C, *reach, *windows, B)."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, reach: Sequence[int], stride: Sequence[int], padding: Sequence[int]
    ) -> torch.Tensor:
        padded = functional.pad(x, (0, 0, *(size for size in reversed(padding) for _ in range(2))))
        ctx.places, ctx.padded = x.shape[2:-1], padded.shape
        ctx.reach, ctx.stride, ctx.padding = reach, stride, padding
        windows = [
            (size - extent) // step + 1
            for size, extent, step in zip(padded.shape[2:-1], reach, stride, strict=True)
        ]
        first, channel, *places, last = padded.stride()
        steps = [place * step for place, step in zip(places, stride, strict=True)]
        return padded.as_strided(
            (*x.shape[:2], *reach, *windows, x.shape[-1]), (first, channel, *places, *steps, last)
        ).contiguous()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        num = len(ctx.reach)
        total = grad.new_zeros(ctx.padded)
        whole: Any = slice(None)
        for offsets in _offsets(ctx.reach):
            reached = [
                slice(offset, offset + step * (size - 1) + 1, step)
                for offset, step, size in zip(offsets, ctx.stride, grad.shape[2 + num : -1], strict=True)
            ]
            total[whole, whole, *reached] += grad[whole, whole, *offsets]
        inner = [slice(pad, pad + size) for pad, size in zip(ctx.padding, ctx.places, strict=True)]
        return total[whole, whole, *inner], None, None, None


def _offsets(reach: Sequence[int]) -> list[tuple[int, ...]]:
    places: list[tuple[int, ...]] = [()]
    for extent in reach:
        places = [(*place, offset) for place in places for offset in range(extent)]
    return places


def _affine(parameters: Sequence[torch.Tensor], x_KFB: torch.Tensor) -> torch.Tensor:
    weight, *bias = parameters
    if not bias:
        return torch.bmm(weight.flatten(2), x_KFB)
    return torch.baddbmm(bias[0].unsqueeze(2), weight.flatten(2), x_KFB)


def _linear(_: nn.Linear, parameters: Sequence[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    return _affine(parameters, x)


def _convolution(
    module: nn.Conv1d | nn.Conv2d, parameters: Sequence[torch.Tensor], x: torch.Tensor
) -> torch.Tensor:
    patches: torch.Tensor = _Patches.apply(x, module.kernel_size, module.stride, module.padding)  # type: ignore[no-untyped-call]
    windows = patches.shape[2 + len(module.kernel_size) :]
    x_KFL = patches.reshape(len(x), -1, windows.numel())
    answers = _affine(parameters, x_KFL)
    return answers.reshape(*answers.shape[:2], *windows)


def _flatten(_: nn.Flatten, __: Sequence[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    return x.reshape(len(x), -1, x.shape[-1])


def _elementwise(module: nn.Module, _: Sequence[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    # Exact ones only: others round differently where a processor takes several values at a time.
    return module(x)  # type: ignore[no-any-return]


def _mean_over_time(_: nn.Module, __: Sequence[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    return x.mean(dim=2)


def _bag_of_words(_: nn.Module, parameters: Sequence[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    (table_KVD,) = parameters
    num_students, num_words = table_KVD.shape[:2]
    ids_KBT = x.movedim(-1, 1)
    own = torch.arange(num_students, device=x.device).reshape(-1, 1, 1) * num_words
    # All padding is word 0 of the first student: it is neither summed nor learned.
    ids = torch.where(ids_KBT == 0, 0, ids_KBT + own)
    # Not `embedding_bag`: in which order that adds gradients depends on the other students' words.
    vectors = functional.embedding(ids, table_KVD.flatten(0, 1), padding_idx=0)
    counts = (ids_KBT != 0).sum(dim=2).clamp(min=1).float().sqrt()
    return (vectors.sum(dim=2) / counts.unsqueeze(2)).transpose(1, 2).contiguous()


LAYERS: dict[type[nn.Module], Layer] = {
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.Flatten: _flatten,
    nn.ReLU: _elementwise,
    nn.LeakyReLU: _elementwise,
    nn.Identity: _elementwise,
    MeanOverTime: _mean_over_time,
    BagOfWords: _bag_of_words,
}


# Multiply-accumulates of one sample beyond which one model by itself keeps a core as busy as many do.
MAX_MACS = 200_000
_MAX_STUDENTS, _MACS_AT_ONCE = 64, 1_000_000


def group_size(num_macs: int) -> int:
    """Says of how many students a group is fastest; what they compute does not depend on it.

    Args:
        num_macs: Multiply-accumulates of one student's answer to one sample.
    """
    return max(4, min(_MAX_STUDENTS, _MACS_AT_ONCE // max(1, num_macs)))


def flat_layers(model: nn.Module) -> list[nn.Module]:
    """Lists the layers of a model that are called one after the other; itself where it is no sequence."""
    if type(model) is not nn.Sequential:
        return [model]
    return [layer for part in model for layer in flat_layers(part)]


def why_not_batched(model: nn.Module, *, num_macs: int) -> str:
    """Says what keeps a model from being computed beside others of its kind; "" where nothing does.

    Args:
        model: The model.
        num_macs: Multiply-accumulates of its answer to one sample.
    """
    layers = flat_layers(model)
    own = [layer for layer in layers if not isinstance(layer, Preprocess)]
    for layer in own:
        if type(layer) not in LAYERS or not _is_plain(layer):
            name = type(layer).__name__.lstrip("_")
            return f"its layer {name} has no batched form" if len(own) > 1 else "it is no sequence of layers"
    parameters = list(model.parameters())
    if not all(parameter.requires_grad for parameter in parameters):
        return "some of its weights are not trained"
    if sum(len(list(layer.parameters())) for layer in layers) != len(parameters):
        return "it uses weights twice"
    if num_macs > MAX_MACS:
        return f"it is as fast alone: {num_macs} multiply-accumulates a sample, over {MAX_MACS}"
    return ""


def _is_plain(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Flatten):
        return (layer.start_dim, layer.end_dim) == (1, -1)
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        is_even = layer.groups == 1 and set(layer.dilation) == {1} and layer.padding_mode == "zeros"
        return is_even and not isinstance(layer.padding, str)
    return True


def compute_together(
    model: nn.Module, parameters: Sequence[torch.Tensor], x_KB: torch.Tensor
) -> torch.Tensor:
    """Computes what K students of one architecture answer, each to samples of its own.

    Args:
        model: One of them, of which `why_not_batched` says nothing.
        parameters: Of all, each (K, *shape), in the order of `model.parameters()`.
        x_KB: Raw samples (K, B, *sample_shape).

    Returns:
        Logits (K, B, C).
    """
    queue = list(parameters)
    layers = flat_layers(model)
    if isinstance(layers[0], Preprocess):
        x_KB = layers.pop(0)(x_KB.flatten(0, 1)).unflatten(0, x_KB.shape[:2])
    x = x_KB.movedim(1, -1).contiguous()
    for layer in layers:
        num = len(list(layer.parameters()))
        mine, queue = queue[:num], queue[num:]
        x = LAYERS[type(layer)](layer, mine, x)
    return x.transpose(1, 2).contiguous()
