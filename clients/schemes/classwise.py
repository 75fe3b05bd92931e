"""`classwise`: per-class mean logits instead of a public set.

Reference: Jeong et al. 2018, "Federated Distillation and Augmentation", arXiv:1811.11479.
A node's target for a sample of class y is the softmax of the mean of the other nodes'
mean logits for y. Public implementations that train against those raw logits diverge.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from clients.distil import private_batches
from clients.private import LabelledSamples
from clients.schemes.records import Lesson, Outcome, Rows
from common.training import Batch, fit, predict_logits


def learn_classwise(lesson: Lesson) -> Outcome:
    """Trains on private labels and on what the other nodes say of each class."""
    targets = leave_one_out(lesson.shared, lesson.own) if lesson.shared is not None else None
    terms = fit(
        lesson.student,
        private_batches(lesson.train, lesson.distillation.batch_size, lesson.rng),
        lambda model, batch: _loss_terms(model, batch, targets, lesson),
        loss_weights=_loss_weights(lesson, has_targets=targets is not None),
        num_steps=lesson.num_steps,
        optimisation=lesson.optimisation,
        on_step=lesson.on_step,
    )
    upload = mean_logits(lesson.student, lesson.train, num_classes=lesson.num_classes)
    return Outcome(
        lesson.student,
        terms[1] if targets is not None else float("nan"),
        terms[0],
        upload if lesson.wants_upload else None,
    )


def leave_one_out(shared: Rows, own: Rows | None) -> Rows:
    """Takes a node's own part out of the mean over nodes: Σ_{j≠i} z_j / (M−1).

    Args:
        shared: Mean over nodes (C, D) and how many nodes know each class.
        own: What this node contributed; None where it did not.

    Returns:
        Mean over the other nodes; rows that no other node knows have count 0.
    """
    if own is None:
        return shared
    mine = (own.counts_R > 0).astype(np.int64)
    others = np.maximum(shared.counts_R - mine, 0)
    totals = shared.values * shared.counts_R[:, None] - own.values * mine[:, None]
    values = np.where(others[:, None] > 0, totals / np.maximum(others, 1)[:, None], 0.0)
    return Rows(values.astype(np.float32), others)


def mean_logits(model: nn.Module, samples: LabelledSamples, *, num_classes: int) -> Rows:
    """Averages a model's logits per class over labelled samples; absent classes have count 0."""
    return mean_by_class(predict_logits(model, samples.x_S), samples.y_S, num_classes=num_classes)


def mean_by_class(values_SD: np.ndarray, y_S: np.ndarray, *, num_classes: int) -> Rows:
    """Averages rows per class.

    Args:
        values_SD: Rows (S, D).
        y_S: Class of each row (S,).
        num_classes: Classes that there are.

    Returns:
        Means (C, D), float32, and samples per class (C,).
    """
    counts = np.bincount(y_S, minlength=num_classes)
    totals = np.zeros((num_classes, values_SD.shape[1]), np.float64)
    np.add.at(totals, y_S, values_SD)
    return Rows((totals / np.maximum(counts, 1)[:, None]).astype(np.float32), counts)


def _loss_weights(lesson: Lesson, *, has_targets: bool) -> tuple[float, ...]:
    if not has_targets:
        return (1.0,)
    return 1 - lesson.distillation.distill_lambda, lesson.distillation.distill_lambda


def _loss_terms(
    model: nn.Module, batch: Batch, targets: Rows | None, lesson: Lesson
) -> tuple[torch.Tensor, ...]:
    x, y = batch
    logits = model(x)
    private = functional.cross_entropy(logits, y)
    if targets is None:
        return (private,)
    known = torch.from_numpy(targets.counts_R > 0)[y]
    if not known.any():
        return private, logits.sum() * 0.0
    teacher = torch.from_numpy(targets.values)[y[known]]
    distillation = lesson.distillation
    return private, distillation.loss(logits[known], teacher, temperature=distillation.temperature)
