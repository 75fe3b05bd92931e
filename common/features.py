"""What a model computes on the way: the features before its last layer, and where it looks."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from fedstill.common.errors import ConfigError
from fedstill.common.losses.attention import attention_map
from fedstill.common.views import Views


def find_head(model: nn.Module) -> nn.Linear:
    """Finds the layer that turns features into logits.

    Raises:
        ConfigError: The model has no linear layer.
    """
    # The one inside `nn.MultiheadAttention` is never called: its weight is read past it.
    layers = [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear) and not isinstance(module, NonDynamicallyQuantizableLinear)
    ]
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
    if not caught:
        raise ConfigError("the model's last linear layer takes no part in its answer: there are no features")
    return logits, caught[-1]


def forward_with_attention(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs a model and keeps the map of its last activations that have places in a sample.

    Args:
        model: A model with convolutions.
        x: Raw samples (S, *sample_shape).

    Returns:
        Logits (S, C) and the map Σ_c A_c² (S, H, W), or (S, T) along time, both with
        gradient where the mode has it.

    Raises:
        ConfigError: The model has no convolution.
    """
    caught: list[torch.Tensor] = []
    seen: list[nn.Module] = []

    def catch(module: nn.Module, _: object, output: object) -> None:
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            seen.append(module)
        if seen and isinstance(output, torch.Tensor) and output.dim() > 2:
            caught[:] = [output]

    handles = [module.register_forward_hook(catch) for module in model.modules()]
    try:
        logits = model(x)
    finally:
        for handle in handles:
            handle.remove()
    if not caught:
        raise ConfigError(
            "distill.loss = attention compares where convolutions look, and this model has none; use hint"
        )
    return logits, attention_map(caught[-1])


# By feature loss: what it compares.
TAPS = {"attention": forward_with_attention, "hint": forward_with_features}


def compute_features(
    model: nn.Module, x_S: np.ndarray | Views, *, kind: str = "hint", batch_size: int = 256
) -> np.ndarray:
    """Computes penultimate features (S, D), or attention maps (S, *places), float32, of raw samples."""
    model.eval()
    with torch.no_grad():
        parts = [
            TAPS[kind](model, torch.from_numpy(np.array(x_S[start : start + batch_size])))[1].numpy()
            for start in range(0, len(x_S), batch_size)
        ]
    return np.concatenate(parts).astype(np.float32, copy=False)
