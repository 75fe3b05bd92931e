"""Kullback–Leibler divergence between standardised logits.

Reference: Sun, Ren, Li, Wang, Cao 2024, "Logit Standardization in Knowledge
Distillation", arXiv:2403.01427.
"""

from __future__ import annotations

import math

import torch

from fedstill.common.losses.kl import kl_divergence
from fedstill.common.losses.records import DistillLoss

# Logits closer than this are equal: dividing by a smaller spread would only blow up noise.
_FLAT = 1e-3


def standardised_divergence(
    student_logits_SC: torch.Tensor, teacher_logits_SC: torch.Tensor, /, *, temperature: float
) -> torch.Tensor:
    """Computes `kl` on z-scored logits, (z − mean) / std per row.

    The spread of a row acts as a temperature of its own, so a small student need not
    reach the size of its teacher's logits, only their relations.

    Args:
        student_logits_SC: Student's logits (S, C), float, with gradient.
        teacher_logits_SC: Teacher's logits (S, C), float. They are targets: no gradient
            flows to them.
        temperature: τ, above 0, on top of the spread. Standardised logits are small
            (√(C − 1) at most), so it lies lower than for `kl`; the paper takes 2.

    Returns:
        A scalar in nats, not below 0.

    Reference:
        Sun et al. 2024, arXiv:2403.01427, with the population's standard deviation, as in
        the paper; the authors' code takes the sample's.
    """
    return kl_divergence(
        _standardise(student_logits_SC), _standardise(teacher_logits_SC), temperature=temperature
    )


def _standardise(logits_SC: torch.Tensor) -> torch.Tensor:
    centred = logits_SC - logits_SC.mean(dim=1, keepdim=True)
    # Brought to size 1 before it is squared, which would overflow; the z-score has no scale.
    scaled = centred / centred.detach().abs().amax(dim=1, keepdim=True).clamp_min(_FLAT)
    norm: torch.Tensor = torch.linalg.vector_norm(scaled, dim=1, keepdim=True).clamp_min(1)
    return math.sqrt(scaled.shape[1]) * scaled / norm


BUILT_IN: dict[str, DistillLoss] = {"standardised": standardised_divergence}
