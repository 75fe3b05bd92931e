"""Penultimate features: what a model's last linear layer is fed with."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from common.errors import ConfigError
from common.views import Views


def find_head(model: nn.Module) -> nn.Linear:
    """Finds the layer that turns features into logits.

    Raises:
        ConfigError: The model has no linear layer.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ConfigError(
            "this scheme needs a model that ends in a linear layer; choose another student.model"
        )
    return layers[-1]


def forward_with_features(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs a model and keeps its penultimate features.

    Args:
        model: A model of the registry.
        x: Raw samples (S, *sample_shape).

    Returns:
        Logits (S, C) and features (S, D), both with gradient where the mode has it.
    """
    caught: list[torch.Tensor] = []
    handle = find_head(model).register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    try:
        logits = model(x)
    finally:
        handle.remove()
    return logits, caught[-1]


def compute_features(model: nn.Module, x_S: np.ndarray | Views, *, batch_size: int = 256) -> np.ndarray:
    """Computes penultimate features (S, D), float32, of raw samples."""
    model.eval()
    with torch.no_grad():
        parts = [
            forward_with_features(model, torch.from_numpy(np.array(x_S[start : start + batch_size])))[
                1
            ].numpy()
            for start in range(0, len(x_S), batch_size)
        ]
    return np.concatenate(parts).astype(np.float32, copy=False)
