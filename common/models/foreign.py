"""Models of the user's own: called with care, and their answers brought to the one form that we work with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from fedstill.common.errors import ConfigError
from fedstill.common.models.inputs import InputSpec
from fedstill.common.models.registry import ModelBuilder
from fedstill.common.modules import call_foreign


class TakeLogits(nn.Module):
    """A last layer: out of a tensor, a tuple's first, an object's `.logits` or a dict's "logits"."""

    def forward(self, answer: Any) -> torch.Tensor:
        """Takes the logits out of a model's answer; raises `TypeError` where there are none."""
        if isinstance(answer, torch.Tensor):
            return answer
        found = getattr(answer, "logits", None)
        if found is None and isinstance(answer, Mapping):
            found = answer.get("logits")
        elif found is None and isinstance(answer, tuple | list) and answer:
            found = answer[0]
        if not isinstance(found, torch.Tensor):
            raise TypeError(
                'expected logits as a tensor, first in a tuple, as .logits or under "logits", got'
                f" {type(answer).__name__}"
            )
        return found


def adopt_model(model: Any, *, name: str, key: str) -> nn.Module:
    """Refuses what is no module, and takes the logits out of what it answers.

    Args:
        model: What a user's function returned.
        name: The function.
        key: The configuration's key, for the error.

    Returns:
        A module from the same input to logits as a tensor; its state has the model's names, with a
        "0." before them.

    Raises:
        ConfigError: It is no module.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{key}: expected {name} to return a torch.nn.Module, got {type(model).__name__}")
    return nn.Sequential(model, TakeLogits())


def adopt_builder(build: ModelBuilder, name: str) -> ModelBuilder:
    """Makes a builder of layers behind `Preprocess` of a user's function of the same arguments."""

    def build_own(spec: InputSpec, *, num_classes: int, width: float) -> nn.Module:
        body = call_foreign(build, spec, num_classes=num_classes, width=width, name=name, key="student.model")
        return adopt_model(body, name=name, key="student.model")

    return build_own
