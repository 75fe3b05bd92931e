"""Which layer of a model it is that cannot be traced."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn


def find_untraceable_layer(model: nn.Module, example_S: torch.Tensor) -> str:
    """Finds the innermost layer that `torch.export` cannot trace.

    Args:
        model: The model that could not be traced.
        example_S: Raw samples (S, *sample_shape) to run it on.

    Returns:
        Its name and type, as "2.gate (Router)"; the model's own type where no layer is to blame.
    """
    calls: dict[str, tuple[Any, ...]] = {}
    handles = [
        module.register_forward_pre_hook(
            lambda _module, inputs, name=name: calls.setdefault(name, inputs) and None
        )
        for name, module in model.named_modules()
    ]
    model.eval()
    try:
        with torch.no_grad():
            model(example_S)
    except Exception:  # noqa: BLE001 a user's model: the layer that was reached last is to blame
        last = next(reversed(calls), "")
        return _describe(model, last)
    finally:
        for handle in handles:
            handle.remove()
    guilty = ""
    for name, inputs in calls.items():  # outer layers are called before their inner ones
        if name.startswith(guilty) and not _can_be_traced(model.get_submodule(name), inputs):
            guilty = name
    return _describe(model, guilty)


def _can_be_traced(module: nn.Module, inputs: tuple[Any, ...]) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.export.export(module, inputs)
    except Exception:  # noqa: BLE001 whatever a user's layer raises
        return False
    return True


def _describe(model: nn.Module, name: str) -> str:
    kind = type(model.get_submodule(name)).__name__
    return f"{name} ({kind})" if name else kind
