"""Distillation losses: a registry of plain functions from logits to a scalar."""

from __future__ import annotations

from typing import Protocol

import torch

from fedstill.common.errors import unknown_name
from fedstill.common.losses.attention import attention_distance
from fedstill.common.losses.dist import relation_distance
from fedstill.common.losses.dkd import decoupled_divergence
from fedstill.common.losses.hint import hint_distance
from fedstill.common.losses.kl import kl_divergence
from fedstill.common.losses.mse import squared_error
from fedstill.common.losses.ntd import not_true_divergence
from fedstill.common.losses.standardised import standardised_divergence


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


LOSSES: dict[str, DistillLoss] = {
    "dist": relation_distance,
    "dkd": decoupled_divergence,
    "kl": kl_divergence,
    "mse": squared_error,
    "ntd": not_true_divergence,
    "standardised": standardised_divergence,
}


FEATURE_LOSSES: dict[str, FeatureLoss] = {
    "attention": attention_distance,
    "hint": hint_distance,
}
# What compares logits where features are compared too.
BESIDE_FEATURES = "kl"


def get_loss(name: str) -> DistillLoss:
    """Looks up what compares logits: the loss of that name, or `kl` beside a loss of features.

    Raises:
        ConfigError: The name is in neither registry; the known ones are listed.
    """
    if name in FEATURE_LOSSES:
        return LOSSES[BESIDE_FEATURES]
    if name not in LOSSES:
        raise unknown_name("distill.loss", name, [*LOSSES, *FEATURE_LOSSES])
    return LOSSES[name]
