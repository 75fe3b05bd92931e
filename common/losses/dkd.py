"""Divergence of target class and other classes, weighed apart.

Reference: Zhao, Cui, Song, Qiu, Liang 2022, "Decoupled Knowledge Distillation",
arXiv:2203.08679.
"""

from __future__ import annotations

import torch

from fedstill.common.losses.kl import kl_divergence
from fedstill.common.losses.ntd import drop_class, not_true_divergence, require_other_classes
from fedstill.common.losses.records import DistillLoss


def decoupled_divergence(
    student_logits_SC: torch.Tensor,
    teacher_logits_SC: torch.Tensor,
    /,
    *,
    temperature: float,
    alpha: float = 1.0,
    beta: float = 2.0,
) -> torch.Tensor:
    """Computes τ²·(α·KL(bᵗ ‖ bˢ) + β·KL(p̂ᵗ ‖ p̂ˢ)), the mean over samples.

    b is (p_y, 1 − p_y) for the target class y, p̂ the softmax over the other classes.

    Args:
        student_logits_SC: Student's logits (S, C), float, with gradient; C of 3 or more.
        teacher_logits_SC: Teacher's logits (S, C), float. They are targets: no gradient
            flows to them.
        temperature: τ, above 0; it softens both parts.
        alpha: Weight of the target class, not below 0.
        beta: Weight of the other classes, not below 0. The paper takes .5 (ImageNet) to
            8 (CIFAR-100), with true labels for the target. Here the teacher's own first
            class is the target, and its errors with it: 2 lets the other classes lead
            without drowning it. On digits .5 to 4 lay within the spread of seeds, 8
            cost a point.

    Returns:
        A scalar in nats, not below 0.

    Raises:
        ConfigError: There are two classes, so that no other class could be compared.

    Reference:
        Zhao et al. 2022, arXiv:2203.08679. The paper's target is the label; public samples
        have none, so the teacher's first class stands for it. τ² is Hinton's, as in
        the authors' code; the paper's formula is without.
    """
    require_other_classes("dkd", student_logits_SC)
    target_S = teacher_logits_SC.argmax(dim=1)
    target = kl_divergence(
        _against_the_rest(student_logits_SC / temperature, target_S),
        _against_the_rest(teacher_logits_SC / temperature, target_S),
        temperature=1.0,
    )
    others = not_true_divergence(student_logits_SC, teacher_logits_SC, temperature=temperature)
    return alpha * temperature**2 * target + beta * others


def _against_the_rest(logits_SC: torch.Tensor, target_S: torch.Tensor) -> torch.Tensor:
    # Two logits whose softmax is b; 1 − p_y itself would round to 0.
    own_S1 = logits_SC.gather(1, target_S[:, None])
    rest_S1 = drop_class(logits_SC, target_S).logsumexp(dim=1, keepdim=True)
    return torch.cat([own_S1, rest_S1], dim=1)


BUILT_IN: dict[str, DistillLoss] = {"dkd": decoupled_divergence}
