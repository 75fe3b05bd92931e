"""Squared error between logits.

Reference: Kim, Oh, Kim, Cho, Yun 2021, "Comparing Kullback-Leibler Divergence and
Mean Squared Error Loss in Knowledge Distillation", arXiv:2105.08919.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from fedstill.common.losses.records import DistillLoss

# Logits this far apart would overflow when squared long before they could be learned;
# no network's are, so that the loss of real ones is the square itself.
_LINEAR_FROM = 1e4


def squared_error(
    student_logits_SC: torch.Tensor, teacher_logits_SC: torch.Tensor, /, *, temperature: float
) -> torch.Tensor:
    """Computes ‖s − t‖² / C, the mean over samples.

    Unlike the other losses it sees a constant per row: a student of log-probabilities
    learns log-probabilities, one of raw logits their offset too.

    Args:
        student_logits_SC: Student's logits (S, C), float, with gradient.
        teacher_logits_SC: Teacher's logits (S, C), float. They are targets: no gradient
            flows to them.
        temperature: Not used; logits are compared as they are.

    Returns:
        A scalar, not below 0.

    Reference:
        Kim et al. 2021, arXiv:2105.08919. Where two logits differ by over 10,000, it
        grows linearly instead, so that it stays finite.
    """
    del temperature
    huber = functional.huber_loss(student_logits_SC, teacher_logits_SC.detach(), delta=_LINEAR_FROM)
    return 2 * huber


BUILT_IN: dict[str, DistillLoss] = {"mse": squared_error}
