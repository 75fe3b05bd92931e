"""Distillation losses: a registry of plain functions from logits to a scalar."""

from __future__ import annotations

from typing import Any

from fedstill.common.errors import unknown_name
from fedstill.common.losses.records import DistillLoss, FeatureLoss
from fedstill.common.modules import is_reference
from fedstill.common.registry import Registry, gather, require_callable

__all__ = [
    "BESIDE_FEATURES",
    "FEATURE_LOSSES",
    "LOSSES",
    "DistillLoss",
    "FeatureLoss",
    "compares_features",
    "feature_tap",
    "get_loss",
]


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
    gather(__name__),
    _as_loss,
)


FEATURE_LOSSES: Registry[FeatureLoss] = Registry(
    "distill.loss",
    "fedstill.feature_losses",
    gather(__name__, attribute="BUILT_IN_OF_FEATURES"),
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
