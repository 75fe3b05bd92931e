"""What a learner asks for: a student that is trained on soft labels, on private labels, or on both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from fedstill.clients.distil import Distillation, SoftLabels, distil_student, train_alone
from fedstill.clients.private import LabelledSamples
from fedstill.common.compressors.recovery import Recovery
from fedstill.common.training import Optimisation


class Losses(NamedTuple):
    """Means over the last tenth of the steps; nan where a course has no such part."""

    distillation: float
    private: float


@dataclass(frozen=True)
class Course:
    """One training: `distil_student` where there are soft labels, `train_alone` where there are none."""

    student: nn.Module
    """Where it begins; changed in place."""
    labels: SoftLabels | None
    private: LabelledSamples
    distillation: Distillation
    """Its batch size is that of the public samples, or of the private ones where they are alone."""
    optimisation: Optimisation
    num_steps: int
    rng: np.random.Generator
    on_step: Callable[[int], bool]
    """Told each step; raises where the round's deadline has passed."""
    validation: LabelledSamples | None = None
    """Alone, the weights that did best on these are kept; None keeps the last ones."""
    guest: Recovery | None = None
    log_prior_C: torch.Tensor | None = None
    proximal_mu: float = 0.0


def follow(course: Course) -> Losses:
    """Trains a course's student by itself; raises what its `on_step` raises."""
    if course.labels is not None:
        return Losses(
            *distil_student(
                course.student,
                course.labels,
                course.private,
                distillation=course.distillation,
                optimisation=course.optimisation,
                num_steps=course.num_steps,
                rng=course.rng,
                on_step=course.on_step,
                guest=course.guest,
            )
        )
    loss = train_alone(
        course.student,
        course.private,
        course.validation,
        batch_size=course.distillation.batch_size,
        optimisation=course.optimisation,
        num_steps=course.num_steps,
        rng=course.rng,
        on_step=course.on_step,
        guest=course.guest,
        log_prior_C=course.log_prior_C,
        proximal_mu=course.proximal_mu,
    )
    return Losses(float("nan"), loss)
