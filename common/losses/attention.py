"""Distance between attention maps: where in a sample student and teacher look.

Reference: Zagoruyko, Komodakis 2017, "Paying More Attention to Attention", arXiv:1612.03928.
"""

from __future__ import annotations

import torch

from fedstill.common.losses.records import FeatureLoss
from fedstill.common.registry import marked

# A map as faint as this looks nowhere.
_FAINT = 1e-12


@marked(compares="maps")
def attention_distance(student_map_SP: torch.Tensor, teacher_map_SP: torch.Tensor, /) -> torch.Tensor:
    """Computes ‖Qˢ/‖Qˢ‖ − Qᵗ/‖Qᵗ‖‖², the mean over samples.

    Args:
        student_map_SP: The student's map Q = Σ_c A_c² over P places (S, P), float, with
            gradient.
        teacher_map_SP: The teacher's map over the same places (S, P), float. It is a
            target: no gradient flows to it.

    Returns:
        A scalar in [0, 2], as no map is below 0; samples in which the teacher looks nowhere cost
        nothing.

    Reference:
        Zagoruyko & Komodakis 2017, arXiv:1612.03928. The paper's norm is not squared, its
        code squares it and takes the mean over places; we square it and take the sum, so
        that the loss does not depend on the resolution.
    """
    student, teacher = _normalise(student_map_SP), _normalise(teacher_map_SP.detach())
    looks = (teacher_map_SP.detach().amax(dim=1) > _FAINT).to(student.dtype)
    distance: torch.Tensor = ((student - teacher).square().sum(dim=1) * looks).mean()
    return distance


def attention_map(activations_SCP: torch.Tensor) -> torch.Tensor:
    """Computes Q = Σ_c A_c² of activations (S, C, *places): a map (S, *places)."""
    return activations_SCP.square().sum(dim=1)


def _normalise(map_SP: torch.Tensor) -> torch.Tensor:
    # By the largest first, whose square would overflow.
    scaled = map_SP / map_SP.detach().amax(dim=1, keepdim=True).clamp_min(_FAINT)
    length: torch.Tensor = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return scaled / length.clamp_min(_FAINT)


BUILT_IN_OF_FEATURES: dict[str, FeatureLoss] = {"attention": attention_distance}
