"""`classwise`: per-class mean logits instead of a public set.

Reference: Jeong et al. 2018, "Federated Distillation and Augmentation", arXiv:1811.11479.
A node's target for a sample of class y is the softmax of the mean of the other nodes'
mean logits for y. Public implementations that train against those raw logits diverge.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from fedstill.clients.schemes.by_class import fit_by_class, mean_by_class
from fedstill.clients.schemes.records import Learner, Lesson, Outcome, Rows
from fedstill.common.training import predict_logits

# What rounding leaves of a sum of weights when all of them are taken out again.
_NOBODY = 1e-9


def learn_classwise(lesson: Lesson) -> Outcome:
    """Trains on private labels and on what the other nodes say of each class."""
    targets = None
    if lesson.shared is not None:
        targets = leave_one_out(lesson.shared, lesson.own, weight=lesson.own_weight)
    distillation = lesson.distillation

    def forward(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = model(x)
        return logits, logits

    def compare(logits: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        return distillation.loss(logits, teacher, temperature=distillation.temperature)

    distance, private = fit_by_class(lesson, targets, forward=forward, compare=compare)
    if not lesson.wants_upload:
        return Outcome(lesson.student, distance, private)
    logits_SC = predict_logits(lesson.student, lesson.train.x_S)
    upload = mean_by_class(logits_SC, lesson.train.y_S, num_classes=lesson.num_classes)
    return Outcome(lesson.student, distance, private, upload)


def leave_one_out(shared: Rows, own: Rows | None, *, weight: float = 1.0) -> Rows:
    """Takes a node's own part out of the mean over nodes: Σ_{j≠i} z_j / (M−1).

    Args:
        shared: Mean over nodes (C, D) and how many nodes know each class.
        own: What this node contributed to it; None where it did not.
        weight: Weight of `own` there; below 1 where it came late.

    Returns:
        Mean over the other nodes; rows that no other node knows have count 0.
    """
    if own is None:
        return shared
    mine = (own.counts_R > 0) * weight
    others = shared.counts_R - mine
    others = np.where(others > _NOBODY, others, 0.0)
    totals = shared.values * shared.counts_R[:, None] - own.values * mine[:, None]
    values = np.where(others[:, None] > 0, totals / np.where(others > 0, others, 1)[:, None], 0.0)
    return Rows(values.astype(np.float32), others)


BUILT_IN: dict[str, Learner] = {"classwise": learn_classwise}
