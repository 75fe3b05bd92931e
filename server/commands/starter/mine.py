"""A teacher, a student and a loss of one's own; fedstill.toml says how they are used.

`spec` says what a raw sample looks like: `spec.sample_shape`, `spec.dtype`, and `spec.scale`,
`spec.mean` and `spec.std`, by which samples are normalised. Models take raw samples, so that the file
that a device runs needs no code of yours.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from fedstill.common.models.inputs import InputSpec, Preprocess


def teacher(spec: InputSpec, num_classes: int) -> nn.Module:
    """Builds a wide network: raw samples (S, …) to logits (S, C)."""
    return _perceptron(spec, num_classes, num_hidden=512)


def student(spec: InputSpec, *, num_classes: int, width: float) -> nn.Module:
    """Builds a narrow one; `width` is student.width and multiplies its layers."""
    return _perceptron(spec, num_classes, num_hidden=max(1, round(32 * width)))


def loss(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, /, *, temperature: float
) -> torch.Tensor:
    """Says how far the student's logits (S, C) are from the teacher's (S, C): cross entropy, softened."""
    targets = functional.softmax(teacher_logits.detach() / temperature, dim=1)
    return functional.cross_entropy(student_logits / temperature, targets) * temperature**2


def _perceptron(spec: InputSpec, num_classes: int, *, num_hidden: int) -> nn.Module:
    num_inputs = math.prod(spec.sample_shape)
    return nn.Sequential(
        Preprocess(spec),
        nn.Flatten(),
        nn.Linear(num_inputs, num_hidden),
        nn.ReLU(),
        nn.Linear(num_hidden, num_classes),
    )
