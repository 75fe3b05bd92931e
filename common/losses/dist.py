"""Distance between the relations that predictions hold, within samples and within classes.

Reference: Huang, You, Wang, Qian, Xu 2022, "Knowledge Distillation from A Stronger
Teacher", arXiv:2205.10536.
"""

from __future__ import annotations

import torch

from fedstill.common.losses.records import DistillLoss

# Spread of probabilities below which float32 holds nothing but rounding.
_FLAT = 1e-6


def relation_distance(
    student_logits_SC: torch.Tensor, teacher_logits_SC: torch.Tensor, /, *, temperature: float
) -> torch.Tensor:
    """Computes 1 − Pearson's correlation of rows, plus the same of columns, each a mean.

    Rows and columns are those of the soft labels softmax(logits / τ). A row or column in
    which the teacher is flat holds no relation and is left out; hence a single sample
    costs its row alone.

    Args:
        student_logits_SC: Student's logits (S, C), float, with gradient.
        teacher_logits_SC: Teacher's logits (S, C), float. They are targets: no gradient
            flows to them.
        temperature: τ, above 0.

    Returns:
        A scalar in [0, 4].

    Reference:
        Huang et al. 2022, arXiv:2205.10536, with both weights 1. The authors' code adds
        the factor τ², the paper does not, nor do we: correlation is free of scale, so
        its gradient does not shrink with τ.
    """
    student = (student_logits_SC / temperature).softmax(dim=1)
    teacher = (teacher_logits_SC.detach() / temperature).softmax(dim=1)
    return _row_distance(student, teacher) + _row_distance(student.T, teacher.T)


def _row_distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    student = student - student.mean(dim=1, keepdim=True)
    teacher = teacher - teacher.mean(dim=1, keepdim=True)
    spread = torch.linalg.vector_norm(teacher, dim=1, keepdim=True)
    unit_student = student / torch.linalg.vector_norm(student, dim=1, keepdim=True).clamp_min(_FLAT)
    distance = 1 - (unit_student * teacher / spread.clamp_min(_FLAT)).sum(dim=1)
    related = (spread[:, 0] > _FLAT).to(distance.dtype)
    mean: torch.Tensor = (distance * related).sum() / related.sum().clamp_min(1)
    return mean


BUILT_IN: dict[str, DistillLoss] = {"dist": relation_distance}
