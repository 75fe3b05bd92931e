"""Learning from one shared row per class, beside private labels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from fedstill.clients.distil import private_batches
from fedstill.clients.schemes.records import Lesson, Rows
from fedstill.common.training import Batch, fit

Forward = Callable[[nn.Module, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
Compare = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def fit_by_class(
    lesson: Lesson, targets: Rows | None, *, forward: Forward, compare: Compare
) -> tuple[float, float]:
    """Trains the lesson's student on private labels and towards the row of each sample's class.

    Args:
        lesson: The round; λ weighs the rows and 1 − λ the private labels.
        targets: Rows (C, D); samples whose class has count 0 learn from labels alone. None
            where nothing is shared yet.
        forward: From model and inputs to logits (B, C) and what is compared (B, D).
        compare: Loss between that and the rows of the classes, both (K, D).

    Returns:
        The last losses against rows, nan without them, and against private labels.
    """

    def loss_terms(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, ...]:
        x, y = batch
        logits, compared = forward(model, x)
        private = functional.cross_entropy(logits, y)
        if targets is None:
            return (private,)
        known = torch.from_numpy(targets.counts_R > 0).to(y.device)[y]
        if not known.any():
            return private, logits.sum() * 0.0
        return private, compare(compared[known], torch.from_numpy(targets.values).to(y.device)[y[known]])

    weight = lesson.distillation.distill_lambda
    terms = fit(
        lesson.student,
        private_batches(lesson.train, lesson.distillation.batch_size, lesson.rng),
        loss_terms,
        loss_weights=(1.0,) if targets is None else (1 - weight, weight),
        num_steps=lesson.num_steps,
        optimisation=lesson.optimisation,
        on_step=lesson.on_step,
        guest=lesson.guest(),
    )
    return (float("nan") if targets is None else terms[1]), terms[0]


def mean_by_class(values_SD: np.ndarray, y_S: np.ndarray, *, num_classes: int) -> Rows:
    """Averages rows per class.

    Args:
        values_SD: Rows (S, D).
        y_S: Class of each row (S,).
        num_classes: Classes that there are.

    Returns:
        Means (C, D), float32, and samples per class (C,); absent classes have count 0.
    """
    counts = np.bincount(y_S, minlength=num_classes)
    totals = np.zeros((num_classes, values_SD.shape[1]), np.float64)
    np.add.at(totals, y_S, values_SD)
    return Rows((totals / np.maximum(counts, 1)[:, None]).astype(np.float32), counts)
