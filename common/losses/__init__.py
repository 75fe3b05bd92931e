"""Distillation losses: a registry of plain functions from logits to a scalar."""

from __future__ import annotations

from typing import Protocol

import torch

from common.errors import unknown_name
from common.losses.dist import relation_distance
from common.losses.dkd import decoupled_divergence
from common.losses.kl import kl_divergence
from common.losses.mse import squared_error
from common.losses.ntd import not_true_divergence
from common.losses.standardised import standardised_divergence


class DistillLoss(Protocol):
    """Measures how far a student's logits (S, C) are from its teacher's (S, C)."""

    def __call__(
        self, student_logits_SC: torch.Tensor, teacher_logits_SC: torch.Tensor, /, *, temperature: float
    ) -> torch.Tensor: ...


LOSSES: dict[str, DistillLoss] = {
    "dist": relation_distance,
    "dkd": decoupled_divergence,
    "kl": kl_divergence,
    "mse": squared_error,
    "ntd": not_true_divergence,
    "standardised": standardised_divergence,
}


def get_loss(name: str) -> DistillLoss:
    """Looks a loss up by name; raises `ConfigError` with the known ones."""
    if name not in LOSSES:
        raise unknown_name("distill.loss", name, LOSSES)
    return LOSSES[name]
