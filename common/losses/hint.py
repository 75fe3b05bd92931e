"""Distance between features: what the student's last hidden layer should look like.

Reference: Romero, Ballas, Kahou, Chassang, Gatta, Bengio 2015, "FitNets: Hints for Thin Deep
Nets", arXiv:1412.6550.
"""

from __future__ import annotations

import torch

from fedstill.common.losses.records import FeatureLoss

# Features this far apart would overflow when squared long before they could be learned.
_LARGEST = 1e15


def hint_distance(student_features_SD: torch.Tensor, teacher_features_SD: torch.Tensor, /) -> torch.Tensor:
    """Computes ‖W·fˢ − fᵗ‖² / D, the mean over samples.

    Args:
        student_features_SD: The student's features behind its projection W (S, D), float,
            with gradient.
        teacher_features_SD: The teacher's features (S, D), float. They are targets: no
            gradient flows to them.

    Returns:
        A scalar, not below 0.

    Reference:
        Romero et al. 2015, arXiv:1412.6550, whose formula has a half and the sum over D; the
        mean over D lets one weight suit teachers of any width. Their hints come from a
        middle layer and are learned first; ours are the teacher's last hidden layer and
        are learned beside its soft labels.
    """
    difference = student_features_SD - teacher_features_SD.detach()
    return difference.clamp(-_LARGEST, _LARGEST).square().mean()


BUILT_IN_OF_FEATURES: dict[str, FeatureLoss] = {"hint": hint_distance}
