"""Divergence between the soft labels of the classes that are not the true one.

Reference: Lee, Jeong, Shin, Bae, Yun 2022, "Preservation of the Global Knowledge by
Not-True Distillation in Federated Learning", arXiv:2106.03097.
"""

from __future__ import annotations

import torch

from fedstill.common.errors import ConfigError
from fedstill.common.losses.kl import kl_divergence
from fedstill.common.losses.records import DistillLoss


def not_true_divergence(
    student_logits_SC: torch.Tensor, teacher_logits_SC: torch.Tensor, /, *, temperature: float
) -> torch.Tensor:
    """Computes τ²·KL over the classes other than the teacher's first, the mean over samples.

    It says nothing of the class that is left out: that is learned from the private
    labels, so a λ well below 1 goes with it.

    Args:
        student_logits_SC: Student's logits (S, C), float, with gradient; C of 3 or more.
        teacher_logits_SC: Teacher's logits (S, C), float. They are targets: no gradient
            flows to them.
        temperature: τ, above 0.

    Returns:
        A scalar in nats, not below 0.

    Raises:
        ConfigError: There are two classes, so that one alone would remain.

    Reference:
        Lee et al. 2022, arXiv:2106.03097. The paper leaves out the true class of private
        samples; public samples have no label, so the teacher's first class stands for it.
    """
    require_other_classes("ntd", student_logits_SC)
    target_S = teacher_logits_SC.argmax(dim=1)
    return kl_divergence(
        drop_class(student_logits_SC, target_S),
        drop_class(teacher_logits_SC, target_S),
        temperature=temperature,
    )


def drop_class(logits_SC: torch.Tensor, class_S: torch.Tensor) -> torch.Tensor:
    """Removes one class per row; (S, C) becomes (S, C − 1), the order of the others kept."""
    column_C = torch.arange(logits_SC.shape[1] - 1, device=logits_SC.device)
    return logits_SC.gather(1, column_C + (column_C >= class_S[:, None]))


def require_other_classes(loss: str, logits_SC: torch.Tensor) -> None:
    """Refuses two classes, where the classes other than the target carry no knowledge.

    Raises:
        ConfigError: There are fewer than three classes.
    """
    if logits_SC.shape[1] < 3:
        raise ConfigError(
            f"distill.loss {loss!r} compares the classes beside the target and needs 3 or more,"
            f" got {logits_SC.shape[1]}; use 'kl'"
        )


BUILT_IN: dict[str, DistillLoss] = {"ntd": not_true_divergence}
