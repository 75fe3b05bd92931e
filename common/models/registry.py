"""What the model registry holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import nn

from fedstill.common.models.inputs import InputSpec


class ModelBuilder(Protocol):
    """Builds the layers behind `Preprocess`: (S, channels, …) floats or (S, T) ids to logits (S, C)."""

    def __call__(self, spec: InputSpec, *, num_classes: int, width: float) -> nn.Module: ...


@dataclass(frozen=True)
class ModelFamily:
    """One entry: a builder and the kinds of samples that it takes."""

    build: ModelBuilder
    tasks: tuple[str, ...]


def scale_width(channels: int, width: float) -> int:
    """Scales a layer's width, to one channel at least."""
    return max(1, round(channels * width))
