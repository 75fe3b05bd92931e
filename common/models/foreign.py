"""Models of the user's own: called with care, and their answers brought to the one form that we work with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from fedstill.common.errors import ConfigError
from fedstill.common.models.inputs import InputSpec, Preprocess
from fedstill.common.models.registry import ModelBuilder
from fedstill.common.modules import call_foreign, is_reference, load_reference
from fedstill.common.registry import require_callable


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


def require_module(model: Any, *, name: str, key: str) -> nn.Module:
    """Refuses what is no module; raises `ConfigError`.

    Args:
        model: What a user's function returned.
        name: The function.
        key: The configuration's key, for the error.

    Returns:
        The module.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{key}: expected {name} to return a torch.nn.Module, got {type(model).__name__}")
    return model


def adopt_builder(build: ModelBuilder, name: str) -> ModelBuilder:
    """Makes a builder of layers behind `Preprocess` of a user's function of the same arguments."""

    def build_own(spec: InputSpec, *, num_classes: int, width: float) -> nn.Module:
        body = call_foreign(build, spec, num_classes=num_classes, width=width, name=name, key="model")
        return nn.Sequential(require_module(body, name=name, key="model"), TakeLogits())

    return build_own


def build_own_teacher(reference: str, spec: InputSpec, num_classes: int, *, key: str) -> nn.Module:
    """Builds a teacher by a user's function of (spec, num_classes), or of a student's arguments.

    The first kind takes raw samples, or raw texts where the function bears `takes = "text"`: a list
    of str. The second stands behind `Preprocess`, as students do.

    Args:
        reference: The function, as `module:function`.
        spec: What samples look like.
        num_classes: Logits that it should return.
        key: The configuration's key, for errors.

    Returns:
        A module whose state has the names that the user's module gives it; logits are taken out of
        its answers by `unwrap_logits` once it is known what it answers.

    Raises:
        ConfigError: No such function, one that raises, or that returns no module.
    """
    factory = load_own_teacher(reference, key=key)
    if _takes_width(factory):
        body = call_foreign(factory, spec, num_classes=num_classes, width=1.0, name=reference, key=key)
        module: nn.Module = nn.Sequential(
            Preprocess(spec), require_module(body, name=reference, key=key), TakeLogits()
        )
        return module
    model = call_foreign(factory, spec, num_classes, name=reference, key=key)
    module = require_module(model, name=reference, key=key)
    takes = getattr(factory, "takes", "samples")
    if takes not in ("samples", "text"):
        raise ConfigError(f'{key}: {reference}.takes should be "text" or not be there, got {takes!r}')
    module.takes = takes  # type: ignore[assignment]
    return module


def load_own_teacher(reference: str, *, key: str) -> Callable[..., Any]:
    """Imports the function that makes a teacher; raises `ConfigError` where there is none."""
    if not is_reference(reference):
        raise ConfigError(f"{key}: expected module:function, got {reference!r}")
    factory: Callable[..., Any] = require_callable(
        load_reference(reference, key=key), reference, key=key, signature="a function of (spec, num_classes)"
    )
    return factory


def _takes_width(factory: Any) -> bool:
    try:
        return "width" in inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return False


def takes_text(model: nn.Module) -> bool:
    """Says whether a model takes raw texts, a list of str, instead of ids."""
    return getattr(model, "takes", "samples") == "text"


def unwrap_logits(model: nn.Module, answer: Any) -> nn.Module:
    """Puts `TakeLogits` behind a model whose answer is no tensor; others keep their names."""
    if isinstance(answer, torch.Tensor):
        return model
    wrapped = nn.Sequential(model, TakeLogits())
    wrapped.takes = getattr(model, "takes", "samples")  # type: ignore[arg-type]
    return wrapped
