"""Plain convolutional networks.

The students have no batch normalisation: its statistics drift apart on small, skewed
partitions. The large teacher has: it trains on the server's own, balanced samples,
and reaches in eight epochs what it would take twenty for without.
"""

from __future__ import annotations

from torch import nn

from fedstill.common.errors import ConfigError
from fedstill.common.models.inputs import InputSpec
from fedstill.common.models.registry import scale_width


def _convolution(inputs: int, outputs: int, *, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1), nn.ReLU()]


def _normalised_convolution(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def image_shape(spec: InputSpec, *, smallest: int) -> tuple[int, int, int]:
    """Returns channels, height and width; raises `ConfigError` where images are too small."""
    channels, height, width = spec.channels_first_shape
    if min(height, width) < smallest:
        raise ConfigError(
            f"this model needs images of {smallest}×{smallest} pixels at least, the data has {height}×{width}"
        )
    return channels, height, width


def build_cnn_tiny(spec: InputSpec, *, num_classes: int, width: float) -> nn.Module:
    """Two convolutions, halved twice: about two thousand weights on 8×8 images."""
    channels, height, image_width = image_shape(spec, smallest=4)
    first, second = scale_width(10, width), scale_width(20, width)
    cells = ((height + 1) // 2 + 1) // 2 * (((image_width + 1) // 2 + 1) // 2)
    return nn.Sequential(
        *_convolution(channels, first, stride=2),
        *_convolution(first, second, stride=2),
        nn.Flatten(),
        nn.Linear(second * cells, num_classes),
    )


def build_cnn_small(spec: InputSpec, *, num_classes: int, width: float) -> nn.Module:
    """Three convolutions: about twenty-five thousand weights on 28×28 images."""
    channels, height, image_width = image_shape(spec, smallest=8)
    first, second, third = (scale_width(size, width) for size in (12, 24, 48))
    cells = (height // 2 // 2 // 2) * (image_width // 2 // 2 // 2)
    return nn.Sequential(
        *_convolution(channels, first),
        nn.MaxPool2d(2),
        *_convolution(first, second),
        nn.MaxPool2d(2),
        *_convolution(second, third),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(third * cells, num_classes),
    )


def build_cnn_medium(spec: InputSpec, *, num_classes: int, width: float) -> nn.Module:
    """Three convolutions and a wide hidden layer: the teacher of small images."""
    channels, height, image_width = image_shape(spec, smallest=4)
    first, second, third = (scale_width(size, width) for size in (32, 64, 256))
    cells = (height // 2) * (image_width // 2)
    return nn.Sequential(
        *_convolution(channels, first),
        *_convolution(first, second),
        nn.MaxPool2d(2),
        *_convolution(second, second),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(second * cells, third),
        nn.ReLU(),
        nn.Dropout(0.4),
        nn.Linear(third, num_classes),
    )


def build_cnn_large(spec: InputSpec, *, num_classes: int, width: float) -> nn.Module:
    """Four convolutions in two stages and a wide hidden layer."""
    channels, height, image_width = image_shape(spec, smallest=8)
    first, second, third = (scale_width(size, width) for size in (32, 64, 256))
    cells = (height // 2 // 2) * (image_width // 2 // 2)
    return nn.Sequential(
        *_normalised_convolution(channels, first),
        nn.MaxPool2d(2),
        *_normalised_convolution(first, second),
        *_normalised_convolution(second, second),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(second * cells, third),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(third, num_classes),
    )
