"""Distillation losses: a registry of plain functions from logits to a scalar."""

from __future__ import annotations

from typing import Any, Protocol

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
from fedstill.common.modules import is_reference
from fedstill.common.registry import Registry, require_callable


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


def _as_loss(found: Any, name: str) -> DistillLoss:
    signature = "a function of (student_logits, teacher_logits, /, *, temperature)"
    loss: DistillLoss = require_callable(found, name, key="distill.loss", signature=signature)
    return loss


def _as_feature_loss(found: Any, name: str) -> FeatureLoss:
    signature = "a function of (student_features, teacher_features, /)"
    loss: FeatureLoss = require_callable(found, name, key="distill.loss", signature=signature)
    return loss


LOSSES: Registry[DistillLoss] = Registry(
    "distill.loss",
    "fedstill.losses",
    {
        "dist": relation_distance,
        "dkd": decoupled_divergence,
        "kl": kl_divergence,
        "mse": squared_error,
        "ntd": not_true_divergence,
        "standardised": standardised_divergence,
    },
    _as_loss,
)


FEATURE_LOSSES: Registry[FeatureLoss] = Registry(
    "distill.loss",
    "fedstill.feature_losses",
    {"attention": attention_distance, "hint": hint_distance},
    _as_feature_loss,
)
# What compares logits where features are compared too.
BESIDE_FEATURES = "kl"


def compares_features(name: str) -> bool:
    """Says whether a name of `distill.loss` is a loss of features.

    That of a user's module is one where the function bears `f.compares`: "features" of the last
    hidden layer, or "maps" of where a model looks.
    """
    if name in LOSSES:
        return False
    if is_reference(name):
        return hasattr(LOSSES[name], "compares")
    return name in FEATURE_LOSSES.names()


def feature_tap(name: str) -> str:
    """Says what a loss of features compares: "hint", the last hidden layer, or "attention", maps."""
    if name in FEATURE_LOSSES.built_in:
        return name
    return "attention" if getattr(FEATURE_LOSSES[name], "compares", "features") == "maps" else "hint"


def get_loss(name: str) -> DistillLoss:
    """Looks up what compares logits: the loss of that name, or `kl` beside a loss of features.

    Raises:
        ConfigError: The name is in neither registry; the known ones are listed.
    """
    if compares_features(name):
        return LOSSES[BESIDE_FEATURES]
    if name not in LOSSES.names() and not is_reference(name):
        raise unknown_name(LOSSES.key, name, [*LOSSES.names(), *FEATURE_LOSSES.names()])
    return LOSSES[name]
