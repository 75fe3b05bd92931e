"""Learning from a teacher's features beside its soft labels.

References: Romero et al. 2015, arXiv:1412.6550 (`hint`); Zagoruyko & Komodakis 2017,
arXiv:1612.03928 (`attention`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from fedstill.common.features import TAPS
from fedstill.common.losses import FEATURE_LOSSES, DistillLoss, feature_tap

Places = tuple[int, ...]


@dataclass(frozen=True)
class Hint:
    """The teacher's features (S, D), or attention maps (S, *places), of what its soft labels belong to."""

    kind: str
    """A name of `FEATURE_LOSSES`."""
    features_S: np.ndarray
    weight: float
    """Weight of the distance between features beside the loss of logits."""
    seed: int
    """Draws the projection."""

    def rows(self, index: np.ndarray) -> torch.Tensor:
        """Takes samples' features, flat, (B, D), float32."""
        return torch.from_numpy(self.features_S[index].astype(np.float32)).flatten(1)

    def attach(
        self, student: nn.Module, loss: DistillLoss, *, example: np.ndarray, num_classes: int
    ) -> tuple[nn.Module, DistillLoss]:
        """Makes a student answer with its features, and a loss look at them.

        Args:
            student: The student; it will be trained inside what is returned.
            loss: What compares logits.
            example: Raw samples (B, *sample_shape), one at least.
            num_classes: Logits that stand before the features.

        Returns:
            A module from raw samples to rows (B, C + D), and the loss of such rows.

        Raises:
            ConfigError: The student has no such features.
        """
        hinted = HintedStudent(student, self, example)
        shrink = functools.partial(_shrink, before=self.features_S.shape[1:], after=hinted.places)
        return hinted, HintLoss(loss, self, num_classes, shrink if hinted.places else _keep)


@dataclass(frozen=True)
class HintLoss:
    """A loss of rows with features behind their logits: loss(logits) + weight·distance(features)."""

    logits_loss: DistillLoss
    hint: Hint
    num_classes: int
    shrink: Callable[[torch.Tensor], torch.Tensor]
    """Brings the teacher's features to the form of the student's."""

    def __call__(
        self, student_rows: torch.Tensor, teacher_rows: torch.Tensor, /, *, temperature: float
    ) -> torch.Tensor:
        """Compares rows (B, C + D)."""
        size = self.num_classes
        logits = self.logits_loss(student_rows[:, :size], teacher_rows[:, :size], temperature=temperature)
        distance = FEATURE_LOSSES[self.hint.kind]
        return logits + self.hint.weight * distance(
            student_rows[:, size:], self.shrink(teacher_rows[:, size:])
        )


class HintedStudent(nn.Module):
    """A student whose answers carry its features; only the student inside is kept.

    For `hint` a projection W between the student's features and the teacher's is trained
    along. Attention maps are averaged down to the coarser of the two.
    """

    def __init__(self, student: nn.Module, hint: Hint, example: np.ndarray) -> None:
        """Looks at the shapes of both sides' features; raises `ConfigError` where the student has none."""
        super().__init__()
        self.student = student
        self._tap = TAPS[feature_tap(hint.kind)]
        was_training = student.training
        student.eval()
        with torch.no_grad():
            own = self._tap(student, torch.from_numpy(np.array(example)))[1]
        student.train(was_training)
        self.projection: nn.Linear | None = None
        self.places: Places = ()
        if feature_tap(hint.kind) == "hint":
            self.projection = nn.Linear(own.shape[1], hint.features_S.shape[1], bias=False)
            with torch.no_grad():
                drawn = torch.randn(
                    self.projection.weight.shape, generator=torch.Generator().manual_seed(hint.seed)
                )
                self.projection.weight.copy_(drawn / own.shape[1] ** 0.5)
        else:
            pairs = zip(own.shape[1:], hint.features_S.shape[1:], strict=True)
            self.places = tuple(min(mine, theirs) for mine, theirs in pairs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Answers with logits and features, side by side (B, C + D)."""
        logits, features = self._tap(self.student, x)
        if self.projection is not None:
            features = self.projection(features)
        else:
            features = _shrink(features.flatten(1), before=tuple(features.shape[1:]), after=self.places)
        return torch.cat([logits, features], dim=1)


def _keep(features: torch.Tensor) -> torch.Tensor:
    return features


def _shrink(map_BP: torch.Tensor, *, before: Places, after: Places) -> torch.Tensor:
    maps = map_BP.reshape(len(map_BP), 1, *before)
    if len(after) == 1:
        return functional.adaptive_avg_pool1d(maps, after[0]).flatten(1)
    return functional.adaptive_avg_pool2d(maps, (after[0], after[1])).flatten(1)
