"""What losses are, as protocols of functions."""

from __future__ import annotations

from typing import Protocol

import torch


class DistillLoss(Protocol):
    """Measures how far a student's logits (S, C) are from its teacher's (S, C)."""

    def __call__(
        self, student_logits_SC: torch.Tensor, teacher_logits_SC: torch.Tensor, /, *, temperature: float
    ) -> torch.Tensor: ...


class FeatureLoss(Protocol):
    """Measures how far a student's features (S, D) are from its teacher's (S, D)."""

    def __call__(
        self, student_features_SD: torch.Tensor, teacher_features_SD: torch.Tensor, /
    ) -> torch.Tensor: ...
