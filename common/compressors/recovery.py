"""Compression while a student trains: a little at a time, and training goes on as recovery.

Reference: Zhu & Gupta 2017, "To prune, or not to prune", arXiv:1710.01878: what is
removed grows as f·(1 − (1 − t/T)³), fast at first and slowly towards the end. The loss
of training, distillation included, is what recovers; nothing is trained apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fedstill.common.compressors.lowrank import factorise_layers
from fedstill.common.compressors.plan import CompressionPlan
from fedstill.common.compressors.pruning import count_channels, prune_channels
from fedstill.common.compressors.quantisers import quantised_weights
from fedstill.common.compressors.sparsity import Masks, apply_masks, choose_masks, present_masks
from fedstill.common.models import InputSpec
from fedstill.common.training import count_bytes

# Parts of a round's steps: pruning begins once the first features are there, and half is left to recover.
BEGIN, END = 0.15, 0.5
SPARSE_END = 0.65
NUM_EVENTS = 8
# One factorisation, after pruning.
FACTORISE = 0.55
_GRADIENT_MEMORY = 0.9

Measure = Callable[[nn.Module], float | None]


def cubic_share(done: float) -> float:
    """Computes the part of the final amount that is removed after a part of the time, both 0 to 1."""
    return 1 - (1 - min(max(done, 0.0), 1.0)) ** 3


def event_steps(num_steps: int, *, num_events: int = NUM_EVENTS, end: float = END) -> dict[int, float]:
    """Places the events of a gradual removal.

    Args:
        num_steps: Optimiser steps of the training.
        num_events: Events at most; short trainings have fewer.
        end: Part of the training after which nothing more is removed.

    Returns:
        By the step after which it comes, the part of the final amount that is removed then; the
        last part is 1.
    """
    last = max(1, int(end * num_steps))
    first = min(last, max(1, round(BEGIN * num_steps)))
    count = min(num_events, last - first + 1)
    places = [first + round((last - first) * index / max(1, count - 1)) for index in range(count)]
    return {place: cubic_share((index + 1) / count) for index, place in enumerate(places)}


@dataclass(frozen=True)
class CompressionTask:
    """What a compressor needs to know beside the model."""

    plan: CompressionPlan
    spec: InputSpec
    original: Mapping[str, int]
    """Channels of each layer as the design builds it."""
    measure: Measure
    """Accuracy of a model on samples that it is not trained on; None where there are none."""
    costs: list[dict[str, Any]]
    """Takes what each step cost at once, before recovery: accuracy, and bytes of the floats."""


class Recovery:
    """Takes part in the training loop: removes parts of the model between its steps."""

    def __init__(self, task: CompressionTask, *, num_steps: int) -> None:
        """Places the events.

        Args:
            task: What is to be done.
            num_steps: Optimiser steps of this training.
        """
        plan = task.plan
        self._task = task
        self._events = event_steps(num_steps) if "prune" in plan.steps else {}
        self._factorise_at = max(1, round(FACTORISE * num_steps)) if "lowrank" in plan.steps else 0
        # Sparsity goes on a little longer: it takes finer parts, and less to recover from.
        self._sparse_events = (
            event_steps(num_steps, num_events=2 * NUM_EVENTS, end=SPARSE_END)
            if "sparsify" in plan.steps
            else {}
        )
        self._masks: Masks | None = None
        self._gradients: dict[str, torch.Tensor] = {}
        self.settled_step = max([*self._events, *self._sparse_events, self._factorise_at, 0])
        """Step after which nothing more is removed."""

    def as_deployed(self, model: nn.Module) -> AbstractContextManager[None]:
        """Puts weights of few bits in for a block, where the plan trains for them."""
        return quantised_weights(model, self._task.plan)

    def after_backward(self, model: nn.Module, step: int) -> None:
        """Remembers gradients where the importance asks for them: the mean of their magnitudes."""
        if self._masks is None:  # a student of an earlier round comes with zeros
            self._masks = present_masks(model) if "sparsify" in self._task.plan.steps else {}
        if self._task.plan.importance != "taylor" or not self._events or step > max(self._events):
            return
        for name, parameter in model.named_parameters():
            if parameter.grad is None:
                continue
            fresh, known = parameter.grad.abs(), self._gradients.get(name)
            if known is None or known.shape != fresh.shape:
                self._gradients[name] = fresh.clone()
            else:
                known.lerp_(fresh, 1 - _GRADIENT_MEMORY)

    def after_step(self, model: nn.Module, step: int) -> bool:
        """Removes what is due; True where parameters are new ones."""
        changed = False
        if step in self._events:
            changed |= self._run("prune", model, lambda: self._prune(model, self._events[step]))
        if step == self._factorise_at:
            plan = self._task.plan
            changed |= self._run(
                "lowrank", model, lambda: factorise_layers(model, energy=plan.energy, most=plan.rank)
            )
        if step in self._sparse_events:
            self._run("sparsify", model, lambda: self._sparsify(model, self._sparse_events[step]))
        if self._masks:
            apply_masks(model, self._masks)
        return changed

    def _sparsify(self, model: nn.Module, share: float) -> bool:
        plan = self._task.plan
        if self._masks:  # zeros that the optimiser has just moved are zeros
            apply_masks(model, self._masks)
        self._masks = _join(
            present_masks(model),
            choose_masks(model, sparsity=plan.sparsity, pattern=plan.pattern, share=share),
        )
        apply_masks(model, self._masks)
        return True

    def _prune(self, model: nn.Module, share: float) -> bool:
        plan = self._task.plan
        for name, parameter in model.named_parameters():
            if name in self._gradients:
                parameter.grad = self._gradients[name]
        removed = prune_channels(
            model,
            self._task.spec,
            original=self._task.original,
            ratio=plan.prune_ratio * share,
            importance=plan.importance,
        )
        if removed:
            self._gradients.clear()
        return removed

    def _run(self, step: str, model: nn.Module, remove: Callable[[], bool]) -> bool:
        before, bytes_before = self._measure(model), count_bytes(model)
        if not remove():
            return False
        after = self._measure(model)
        costs = self._task.costs
        known = next((cost for cost in costs if cost["step"] == step), None)
        if known is None:
            known = {"step": step, "accuracy_before": before, "bytes_before": bytes_before}
            costs.append(known)
        known |= {"accuracy_at_once": after, "bytes_after": count_bytes(model)}
        return True

    def _measure(self, model: nn.Module) -> float | None:
        with self.as_deployed(model):
            return self._task.measure(model)


def _join(zeros: Masks, chosen: Masks) -> Masks:
    """Masks what is zero already and what is chosen now."""
    return {name: mask & zeros[name] if name in zeros else mask for name, mask in chosen.items()}


def make_recovery(
    plan: CompressionPlan,
    spec: InputSpec,
    *,
    design: nn.Module,
    measure: Measure,
    costs: list[dict[str, Any]],
) -> Callable[[int], Recovery] | None:
    """Makes what takes part in a student's training.

    Args:
        plan: How the student is compressed.
        spec: The samples that it takes.
        design: The student as its design builds it, before anything is removed.
        measure: As in `CompressionTask`.
        costs: As in `CompressionTask`.

    Returns:
        From a number of steps to a fresh `Recovery`; None where training is left alone.
    """
    if not plan.changes_training:
        return None
    task = CompressionTask(plan, spec, count_channels(design), measure, costs)
    return lambda num_steps: Recovery(task, num_steps=num_steps)
