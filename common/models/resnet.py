"""Small residual and depthwise-separable networks for images, without normalisation.

Batch statistics drift apart on skewed partitions; a residual branch that begins at
zero trains without any (Zhang 2019, 1901.09321, of whose scheme only that is taken).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from fedstill.common.models.cnn import image_shape
from fedstill.common.models.inputs import InputSpec
from fedstill.common.models.registry import scale_width


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = (
            nn.Identity() if inputs == outputs and stride == 1 else nn.Conv2d(inputs, outputs, 1, stride)
        )
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.shortcut(x) + self.second(functional.relu(self.first(x))))


class _MeanOverSpace(nn.Module):
    def forward(self, features_SCHW: torch.Tensor) -> torch.Tensor:
        return features_SCHW.mean(dim=(2, 3))


def build_resnet_small(spec: InputSpec, *, num_classes: int, width: float) -> nn.Module:
    """Six residual blocks in three stages: about 0.4 million weights (He 2016, 1512.03385)."""
    channels, _, _ = image_shape(spec, smallest=4)
    stem, *stages = sizes = [scale_width(size, width) for size in (24, 24, 48, 96)]
    blocks: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(zip(sizes, stages, strict=False)):
        blocks += [_Block(inputs, outputs, stride=2 if index else 1), _Block(outputs, outputs, stride=1)]
    return nn.Sequential(
        nn.Conv2d(channels, stem, 3, padding=1),
        nn.ReLU(),
        *blocks,
        _MeanOverSpace(),
        nn.Dropout(0.2),
        nn.Linear(stages[-1], num_classes),
    )


def _separable(inputs: int, outputs: int, *, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, inputs, 3, stride=stride, padding=1, groups=inputs),
        nn.Conv2d(inputs, outputs, 1),
        nn.ReLU(),
    ]


def build_cnn_separable(spec: InputSpec, *, num_classes: int, width: float) -> nn.Module:
    """Four depthwise-separable convolutions: about twelve thousand weights (Howard 2017, 1704.04861)."""
    channels, _, _ = image_shape(spec, smallest=4)
    sizes = [scale_width(size, width) for size in (16, 32, 48, 64)]
    layers: list[nn.Module] = []
    for inputs, outputs, stride in zip(sizes, [*sizes[1:], sizes[-1]], (2, 2, 1, 1), strict=True):
        layers += _separable(inputs, outputs, stride=stride)
    return nn.Sequential(
        nn.Conv2d(channels, sizes[0], 3, padding=1),
        nn.ReLU(),
        *layers,
        _MeanOverSpace(),
        nn.Linear(sizes[-1], num_classes),
    )
