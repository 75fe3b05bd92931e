"""`weights`: federated averaging of the same students, the baseline.

Reference: McMahan et al. 2017, "FedAvg", arXiv:1602.05629; Li et al. 2018, "FedProx",
arXiv:1812.06127 (the proximal term μ/2·‖w − w_global‖²).

What a node evaluates and exports is the average that it was sent, as the papers do,
not the copy that it then trains; so a last round only takes the last average over, and
a run has one round more than `federation.num_rounds`.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from fedstill.clients.schemes.records import Learner, Learning, Lesson, Outcome, Rows
from fedstill.common.errors import ExchangeError


def learn_weights(lesson: Lesson) -> Learning:
    """Takes the average over, trains a copy of it on private data, and sends that."""
    average = lesson.student
    if lesson.shared is not None:
        unflatten_weights(average, lesson.shared.values[0])
    if not lesson.wants_upload:
        return Outcome(average, float("nan"), float("nan"))
    trained = copy.deepcopy(average)
    losses = yield lesson.course(student=trained, labels=None, proximal_mu=lesson.proximal_mu)
    upload = Rows(flatten_weights(trained)[None, :], np.array([len(lesson.train)]))
    return Outcome(average, float("nan"), losses.private, upload)


def flatten_weights(model: nn.Module) -> np.ndarray:
    """Lays a model's trainable values in a row (P,), float32, sorted by name."""
    named = sorted(model.named_parameters())
    return np.concatenate([value.detach().numpy().ravel() for _, value in named]).astype(
        np.float32, copy=False
    )


def unflatten_weights(model: nn.Module, values_P: np.ndarray) -> None:
    """Puts a row of values back into a model; the inverse of `flatten_weights`.

    Raises:
        ExchangeError: Another number of values than the model has.
    """
    named = sorted(model.named_parameters())
    expected = sum(value.numel() for _, value in named)
    if len(values_P) != expected:
        raise ExchangeError(f"expected {expected} weights for this student, got {len(values_P)}")
    start = 0
    with torch.no_grad():
        for _, value in named:
            part = np.array(values_P[start : start + value.numel()], np.float32)
            value.copy_(torch.from_numpy(part.reshape(value.shape)))
            start += value.numel()


BUILT_IN: dict[str, Learner] = {"weights": learn_weights}
