"""Multilayer perceptrons, for tables and for anything that can be flattened."""

from __future__ import annotations

import itertools
import math

from torch import nn

from fedstill.common.models.inputs import InputSpec
from fedstill.common.models.registry import scale_width


def _build(spec: InputSpec, hidden: list[int], *, num_classes: int) -> nn.Module:
    sizes = [math.prod(spec.sample_shape), *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], num_classes))


def build_mlp_small(spec: InputSpec, *, num_classes: int, width: float) -> nn.Module:
    """One hidden layer of 32."""
    return _build(spec, [scale_width(32, width)], num_classes=num_classes)


def build_mlp_large(spec: InputSpec, *, num_classes: int, width: float) -> nn.Module:
    """Two hidden layers of 512 and 256."""
    return _build(spec, [scale_width(512, width), scale_width(256, width)], num_classes=num_classes)
