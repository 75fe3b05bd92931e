"""Structured pruning: whole channels go, with all that depends on them.

Reference: Fang et al. 2023, "DepGraph: Towards Any Structural Pruning", arXiv:2301.12900
(Torch-Pruning finds what depends on what); importance by magnitude (Li 2017, 1608.08710), by
the loss's first-order change (Molchanov 2019, 1906.10771) or by the scale of batch
normalisation (Liu 2017, 1708.06519). Every layer loses the same part of its channels;
the schedule is that of `fedstill.common.compressors.schedule`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch_pruning
from torch import nn

from fedstill.common.compressors.structure import Weighted, weighted_layers
from fedstill.common.errors import FedStillError
from fedstill.common.models import InputSpec

_IMPORTANCES = {
    "magnitude": lambda: torch_pruning.importance.GroupMagnitudeImportance(p=2),
    "taylor": torch_pruning.importance.GroupTaylorImportance,
    "bn_scale": torch_pruning.importance.BNScaleImportance,
}


def count_channels(model: nn.Module) -> dict[str, int]:
    """Counts the output channels of every linear and convolutional layer by name."""
    return {name: len(layer.weight) for name, layer in weighted_layers(model).items()}


def prune_channels(
    model: nn.Module, spec: InputSpec, *, original: Mapping[str, int], ratio: float, importance: str
) -> bool:
    """Removes channels until every layer has lost a part of those that it was built with.

    Args:
        model: Pruned in place; layers that are smaller already stay. Logits are never pruned.
        spec: The samples that it takes.
        original: What `count_channels` returned for the model as it was built.
        ratio: Part of each layer's channels that is gone afterwards, 0 to 1; one stays.
        importance: "magnitude", "taylor" (gradients have to be there) or "bn_scale".

    Returns:
        Whether anything was removed; parameters are new ones then.

    Raises:
        FedStillError: The model cannot be pruned; the layer is named.
    """
    names = {module: name for name, module in model.named_modules()}
    graph = _trace_dependencies(model, spec)
    score = _IMPORTANCES[importance]()
    roots = _list_roots(graph, model, names)
    if not roots:
        raise FedStillError(
            "this model has no layer whose channels can be pruned; leave prune out of compress.steps"
        )
    removed = False
    for root, prune in roots:
        name, channels = names[root], len(root.weight)
        parent, _, place = name.rpartition(".")
        built = original.get(name, original.get(parent, 0) if place == "1" else 0)
        target = max(1, round(built * (1 - ratio)))
        if not built or channels <= target:  # the rank between the two layers of a pair is not pruned
            continue
        try:
            scores = score(graph.get_pruning_group(root, prune, list(range(channels))))
            if scores is None:
                raise ValueError(f"nothing in it has an importance by {importance}")
            lowest = torch.argsort(scores.detach(), stable=True)[: channels - target]
            group = graph.get_pruning_group(root, prune, sorted(lowest.tolist()))
            if graph.check_pruning_group(group):
                group.prune()
                removed = True
        except (ValueError, RuntimeError, IndexError, AttributeError, AssertionError) as error:
            raise FedStillError(f"cannot prune layer {name}: {_first_line(error)}") from None
    if removed:
        _check_runs(model, spec)
    return removed


def _list_roots(
    graph: torch_pruning.DependencyGraph, model: nn.Module, names: Mapping[nn.Module, str]
) -> list[tuple[Weighted, Callable[..., Any]]]:
    head = list(weighted_layers(model).values())[-1]
    groups = graph.get_all_groups(ignored_layers=[head])
    roots = [(group[0].dep.target.module, group[0].dep.handler) for group in groups]
    order = {module: index for index, module in enumerate(names)}
    return sorted(
        roots, key=lambda item: order[item[0]]
    )  # in the order of the model, whatever was traced first


def _trace_dependencies(model: nn.Module, spec: InputSpec) -> torch_pruning.DependencyGraph:
    example = torch.ones((2, *spec.sample_shape), dtype=getattr(torch, spec.dtype))
    was_training = model.training
    model.eval()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch_pruning.DependencyGraph().build_dependency(model, example, verbose=False)
    except Exception as error:  # noqa: BLE001 Torch-Pruning raises whatever its tracing met
        raise FedStillError(f"cannot prune this model: it cannot be traced ({_first_line(error)})") from None
    finally:
        model.train(was_training)


def _check_runs(model: nn.Module, spec: InputSpec) -> None:
    example = torch.ones((2, *spec.sample_shape), dtype=getattr(torch, spec.dtype))
    running: list[str] = []
    handles = [
        layer.register_forward_pre_hook(lambda _, __, name=name: running.append(name))
        for name, layer in model.named_modules()
        if not list(layer.children())
    ]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(example)
    except (RuntimeError, ValueError, IndexError) as error:
        where = running[-1] if running else "its input"
        raise FedStillError(
            f"cannot prune this model: after layer {where} it does not run with fewer channels"
            f" ({_first_line(error)}); leave prune out of compress.steps"
        ) from None
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
