"""Sensor series: from channels over time (S, C, T) to logits."""

from __future__ import annotations

import torch
from torch import nn

from fedstill.common.models.inputs import InputSpec
from fedstill.common.models.registry import scale_width


class MeanOverTime(nn.Module):
    def forward(self, features_SCT: torch.Tensor) -> torch.Tensor:
        return features_SCT.mean(dim=2)


def _convolution(inputs: int, outputs: int, reach: int) -> list[nn.Module]:
    return [nn.Conv1d(inputs, outputs, reach, stride=2, padding=reach // 2), nn.ReLU()]


def _normalised_convolution(inputs: int, outputs: int, reach: int) -> list[nn.Module]:
    return [
        nn.Conv1d(inputs, outputs, reach, stride=2, padding=reach // 2, bias=False),
        nn.BatchNorm1d(outputs),
        nn.ReLU(),
    ]


def build_series_cnn(spec: InputSpec, *, num_classes: int, width: float) -> nn.Module:
    """Three convolutions that halve the time, and the mean of what is left."""
    channels = spec.channels_first_shape[0]
    first, second, third = (scale_width(size, width) for size in (16, 24, 32))
    return nn.Sequential(
        *_convolution(channels, first, 5),
        *_convolution(first, second, 5),
        *_convolution(second, third, 3),
        MeanOverTime(),
        nn.Linear(third, num_classes),
    )


def build_series_cnn_large(spec: InputSpec, *, num_classes: int, width: float) -> nn.Module:
    """The same with 64 to 128 filters, batch normalisation, dropout and a hidden layer."""
    channels = spec.channels_first_shape[0]
    first, second = scale_width(64, width), scale_width(128, width)
    return nn.Sequential(
        *_normalised_convolution(channels, first, 7),
        nn.Dropout(0.2),
        *_normalised_convolution(first, second, 5),
        nn.Dropout(0.2),
        *_normalised_convolution(second, second, 5),
        MeanOverTime(),
        nn.Dropout(0.4),
        nn.Linear(second, second),
        nn.ReLU(),
        nn.Dropout(0.4),
        nn.Linear(second, num_classes),
    )


class _Gru(nn.Module):
    def __init__(self, channels: int, size: int, num_classes: int) -> None:
        super().__init__()
        self.gru = nn.GRU(channels, size, batch_first=True)
        self.head = nn.Linear(size, num_classes)

    def forward(self, x_SCT: torch.Tensor) -> torch.Tensor:
        _, state = self.gru(x_SCT.transpose(1, 2))
        return self.head(state[-1])  # type: ignore[no-any-return]


def build_series_gru(spec: InputSpec, *, num_classes: int, width: float) -> nn.Module:
    """One layer of 32 gated recurrent units (Cho 2014, 1406.1078), the last state classified."""
    return _Gru(spec.channels_first_shape[0], scale_width(32, width), num_classes)
