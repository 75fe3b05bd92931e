"""How a student is trained on a node."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from fedstill.clients.hints import Hint
from fedstill.clients.private import LabelledSamples
from fedstill.common.compressors.recovery import Recovery
from fedstill.common.losses import DistillLoss
from fedstill.common.training import Batch, Optimisation, TrainingGuest, device_of, fit, shuffled_batches
from fedstill.common.views import Views

# How often a student that learns alone is looked at.
NUM_LOOKS = 20


@dataclass(frozen=True)
class SoftLabels:
    """The public samples (S, *sample_shape), or their views, with their teacher's logits (S, C)."""

    x_S: np.ndarray | Views
    logits_SC: np.ndarray
    hint: Hint | None = None
    """The teacher's features beside them, where the loss compares any."""

    def targets(self, index: np.ndarray) -> torch.Tensor:
        """Takes what a batch is compared with: logits (B, C), and features behind them if there are."""
        logits_BC = torch.from_numpy(self.logits_SC[index])
        return logits_BC if self.hint is None else torch.cat([logits_BC, self.hint.rows(index)], dim=1)


@dataclass(frozen=True)
class Distillation:
    """What the student's objective is: λ·loss(public, soft labels) + (1−λ)·CE(private labels)."""

    loss: DistillLoss
    temperature: float
    distill_lambda: float
    batch_size: int


def distil_student(
    student: nn.Module,
    labels: SoftLabels,
    private: LabelledSamples,
    *,
    distillation: Distillation,
    optimisation: Optimisation,
    num_steps: int,
    rng: np.random.Generator,
    on_step: Callable[[int], bool] | None = None,
    guest: TrainingGuest | None = None,
) -> tuple[float, float]:
    """Trains a student on soft labels and private labels together.

    Each step takes a batch of public samples and, beside it, half as many private
    ones (fewer where the node has fewer), in one forward pass.

    Args:
        student: Trained in place.
        labels: Public samples and soft labels.
        private: The node's training part; may be empty.
        distillation: Objective.
        optimisation: Optimiser and schedule.
        num_steps: Optimiser steps.
        rng: Source of the batches.
        on_step: As for `fit`.
        guest: As for `fit`.

    Returns:
        Distillation loss and cross-entropy on private labels at the end of training;
        the latter is nan without private samples.
    """
    share = distillation.distill_lambda if len(private) else 1.0
    batches = _paired_batches(labels, private, distillation.batch_size, rng)
    model, loss, num_classes = student, distillation.loss, labels.logits_SC.shape[1]
    if labels.hint is not None:
        model, loss = labels.hint.attach(student, loss, example=labels.x_S[:1], num_classes=num_classes)

    def loss_terms(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, ...]:
        public_x, targets, *rest = batch
        if not rest:
            return (loss(model(public_x), targets, temperature=distillation.temperature),)
        answers = model(torch.cat([public_x, rest[0]]))
        return (
            loss(answers[: len(public_x)], targets, temperature=distillation.temperature),
            functional.cross_entropy(answers[len(public_x) :, :num_classes], rest[1]),
        )

    weights = (share, 1 - share) if len(private) else (1.0,)
    terms = fit(
        model,
        batches,
        loss_terms,
        loss_weights=weights,
        num_steps=num_steps,
        optimisation=optimisation,
        on_step=on_step,
        guest=guest,
    )
    return terms[0], terms[1] if len(terms) > 1 else float("nan")


def _paired_batches(
    labels: SoftLabels, private: LabelledSamples, batch_size: int, rng: np.random.Generator
) -> Iterator[Batch]:
    public_indices = shuffled_batches(len(labels.x_S), batch_size, rng)
    if not len(private):
        for index in public_indices:
            yield torch.from_numpy(labels.x_S[index]), labels.targets(index)
    private_size = min(max(1, batch_size // 2), len(private))
    private_indices = shuffled_batches(len(private), private_size, rng)
    for index in public_indices:
        private_index = next(private_indices)
        yield (
            torch.from_numpy(labels.x_S[index]),
            labels.targets(index),
            torch.from_numpy(private.x_S[private_index]),
            torch.from_numpy(private.y_S[private_index]),
        )


def train_alone(
    student: nn.Module,
    private: LabelledSamples,
    validation: LabelledSamples | None,
    *,
    batch_size: int,
    optimisation: Optimisation,
    num_steps: int,
    rng: np.random.Generator,
    on_step: Callable[[int], bool] | None = None,
    guest: Recovery | None = None,
    log_prior_C: torch.Tensor | None = None,
    proximal_mu: float = 0.0,
) -> float:
    """Trains a student on private data alone: the control beside every distilled one.

    The control gets the steps that the student had, and keeps the weights that did
    best on the node's validation part (looked at `NUM_LOOKS` times), so that it is not
    weak by overfitting; while a guest still removes parts, it does not look.

    Args:
        student: Trained in place.
        private: The node's training part, not empty.
        validation: The node's validation part; None or an empty one keeps the last weights.
        batch_size: Samples per step.
        optimisation: Optimiser and schedule.
        num_steps: Optimiser steps.
        rng: Source of the batches.
        on_step: As for `fit`.
        guest: What compresses it meanwhile.
        log_prior_C: Added to the logits (C,) while it learns, so that they come to say what a
            sample looks like, not how many of its class the node has ("logit adjustment", Menon et
            al. 2021, arXiv:2007.07314; in federations: FedLC, arXiv:2209.00189). None adds nothing.
        proximal_mu: Weight μ of the proximal term μ/2·‖w − w_begin‖² (Li et al. 2018, "FedProx",
            arXiv:1812.06127); 0 is none.

    Returns:
        Cross-entropy on private labels at the end of training.
    """
    prior = 0.0 if log_prior_C is None else log_prior_C.to(optimisation.device)
    anchor = [parameter.detach().clone() for parameter in student.parameters()] if proximal_mu else []
    best_loss, best_state = float("inf"), None
    interval = look_interval(num_steps)
    first = 0 if guest is None else guest.settled_step

    def look(step: int) -> bool:
        nonlocal best_loss, best_state
        if validation and step > first and (step % interval == 0 or step == num_steps):
            with nullcontext() if guest is None else guest.as_deployed(student):
                loss = _cross_entropy(student, validation, log_prior_C)
            if loss < best_loss:
                best_loss, best_state = loss, copy.deepcopy(student.state_dict())
        return on_step(step) if on_step else False

    def loss_terms(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, ...]:
        entropy = functional.cross_entropy(model(batch[0]) + prior, batch[1])
        if not proximal_mu:
            return (entropy,)
        pairs = zip(model.parameters(), anchor, strict=True)
        return entropy, torch.stack([(now - then.to(now.device)).square().sum() for now, then in pairs]).sum()

    (loss, *_) = fit(
        student,
        private_batches(private, batch_size, rng),
        loss_terms,
        loss_weights=(1.0, proximal_mu / 2) if proximal_mu else (1.0,),
        num_steps=num_steps,
        optimisation=optimisation,
        on_step=look,
        guest=guest,
    )
    if best_state is not None:
        student.load_state_dict(best_state)
    return loss


def look_interval(num_steps: int) -> int:
    """Steps between two looks at the validation part."""
    return max(1, num_steps // NUM_LOOKS)


def private_batches(samples: LabelledSamples, batch_size: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Yields shuffled batches of samples and their classes for ever."""
    for index in shuffled_batches(len(samples), batch_size, rng):
        yield torch.from_numpy(samples.x_S[index]), torch.from_numpy(samples.y_S[index])


def class_log_prior(y_S: np.ndarray, *, num_classes: int) -> torch.Tensor:
    """Estimates how likely each class is among a node's labels: log-probabilities (C,), float32.

    Half a sample stands in for each class that may only have been missed (Jeffreys' prior).
    """
    counts_C = np.bincount(y_S, minlength=num_classes) + 0.5
    return torch.from_numpy(np.log(counts_C / counts_C.sum()).astype(np.float32))


def _cross_entropy(
    model: nn.Module, samples: LabelledSamples, log_prior_C: torch.Tensor | None = None
) -> float:
    model.eval()
    with torch.no_grad():
        logits = model(torch.from_numpy(samples.x_S).to(device_of(model))).cpu()
        logits = logits if log_prior_C is None else logits + log_prior_C
        return float(functional.cross_entropy(logits, torch.from_numpy(samples.y_S)))
