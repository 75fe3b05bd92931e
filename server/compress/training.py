"""Training beside surgery: distillation from the given model, the same for every plan and the control."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from fedstill.common.compressors import CompressionPlan
from fedstill.common.compressors.recovery import make_recovery
from fedstill.common.losses import get_loss
from fedstill.common.seeding import stream, stream_seed
from fedstill.common.training import (
    Batch,
    Optimisation,
    deterministic,
    fit,
    predict_logits,
    shuffled_batches,
    steps_per_epoch,
)
from fedstill.server.compress.records import Budget, Material


def count_steps(material: Material, budget: Budget) -> int:
    """Counts the optimiser steps of a budget."""
    return budget.num_epochs * steps_per_epoch(len(material.train), budget.batch_size)


def train_plan(
    given: nn.Module,
    plan: CompressionPlan,
    material: Material,
    teacher_logits_SC: np.ndarray,
    budget: Budget,
    *,
    seed: int,
    num_threads: int,
    on_step: Callable[[int], bool] | None = None,
) -> nn.Module:
    """Trains a copy of the given model while its plan removes parts of it.

    The objective is λ·loss(soft labels) + (1−λ)·cross-entropy(labels). Batches, steps and
    schedule do not depend on the plan; one without steps is the control.

    Args:
        given: The model; left as it is.
        plan: What is done meanwhile.
        material: The data; its training part is used, its validation part says what a step cost.
        teacher_logits_SC: What the given model says of the training part.
        budget: How long and how.
        seed: Seeds the order of the samples and dropout.
        num_threads: Threads of torch.
        on_step: As for `fedstill.common.training.fit`.

    Returns:
        The trained model, in evaluation mode.
    """
    model = copy.deepcopy(given)
    distance = get_loss(budget.loss)
    x_S, y_S = material.x_train, material.y_train
    num_steps = count_steps(material, budget)
    recovery = make_recovery(
        plan, material.spec, design=given, measure=lambda module: _accuracy(module, material), costs=[]
    )

    def batches() -> Iterator[Batch]:
        for index in shuffled_batches(len(x_S), budget.batch_size, stream(seed, "compress-batches")):
            yield tuple(torch.from_numpy(values[index]) for values in (x_S, teacher_logits_SC, y_S))

    def loss_terms(module: nn.Module, batch: Batch) -> tuple[torch.Tensor, ...]:
        logits = module(batch[0])
        return (
            distance(logits, batch[1], temperature=budget.temperature),
            functional.cross_entropy(logits, batch[2]),
        )

    with deterministic(stream_seed(seed, "compress-training"), num_threads=num_threads):
        fit(
            model,
            batches(),
            loss_terms,
            loss_weights=(budget.distill_lambda, 1 - budget.distill_lambda),
            num_steps=num_steps,
            optimisation=Optimisation(budget.learning_rate, budget.weight_decay),
            on_step=on_step,
            guest=None if recovery is None else recovery(num_steps),
        )
    return model.eval()


def _accuracy(model: nn.Module, material: Material) -> float:
    x_S, y_S = (
        values[material.validation] for values in (material.dataset.x_train, material.dataset.y_train)
    )
    return float(np.mean(predict_logits(model, x_S).argmax(axis=1) == y_S))
