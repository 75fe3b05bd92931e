"""Kullback–Leibler divergence between softened predictions.

Reference: Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural
Network", arXiv:1503.02531.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from fedstill.common.losses.records import DistillLoss


def kl_divergence(
    student_logits_SC: torch.Tensor, teacher_logits_SC: torch.Tensor, /, *, temperature: float
) -> torch.Tensor:
    """Computes τ²·KL(softmax(t/τ) ‖ softmax(s/τ)), the mean over samples.

    Args:
        student_logits_SC: Student's logits (S, C), float, with gradient.
        teacher_logits_SC: Teacher's logits (S, C), float; a constant per row may be missing.
            They are targets: no gradient flows to them.
        temperature: τ, above 0.

    Returns:
        A scalar in nats, not below 0. τ² keeps its gradients as large as those of
        hard labels whatever the temperature.
    """
    student = functional.log_softmax(student_logits_SC / temperature, dim=1)
    teacher = functional.log_softmax(teacher_logits_SC.detach() / temperature, dim=1)
    # Not `functional.kl_div`, which has no form for many students at once (`torch.vmap`).
    return (teacher.exp() * (teacher - student)).sum() / len(teacher) * temperature**2


BUILT_IN: dict[str, DistillLoss] = {"kl": kl_divergence}
