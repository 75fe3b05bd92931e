"""What a scheme gives a node to learn from, and what the node makes of it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from fedstill.clients.choice import Choice
from fedstill.clients.course import Course, Losses
from fedstill.clients.distil import Distillation, SoftLabels
from fedstill.clients.private import LabelledSamples
from fedstill.common.compressors.recovery import Recovery
from fedstill.common.training import Optimisation
from fedstill.common.views import Views


@dataclass(frozen=True)
class Rows:
    """Knowledge in the form that a scheme exchanges, row by row.

    `values` (R, D), float32, are logits on public samples (S, C), class means of logits
    (C, C) or of features (C, D), or weights (1, P). `counts_R` says how many samples, or
    nodes, stand behind each row, late ones for less than one; 0 is a row that nobody knows.
    """

    values: np.ndarray
    counts_R: np.ndarray


@dataclass(frozen=True)
class Lesson:
    """One round as a learner sees it: no transport, no framework."""

    student: nn.Module
    train: LabelledSamples
    validation: LabelledSamples
    num_classes: int
    public_S: np.ndarray | Views | None
    """Public samples or all their views, in the schemes that have them."""
    labels: SoftLabels | None
    """The same with soft labels, once there are some."""
    shared: Rows | None
    """What all nodes together know, in the schemes without public samples."""
    own: Rows | None
    """What this node itself contributed to `shared`."""
    own_weight: float
    """Weight of that there: 1, or less where it came late."""
    distillation: Distillation
    optimisation: Optimisation
    num_steps: int
    proximal_mu: float
    wants_upload: bool
    selective_quantile: float
    """Share of the node's own samples that bounds what it speaks about; 0: it speaks about all."""
    revisit_ratio: float
    """Steps on private data before the node labels the public set, as a share of the round's."""
    rng: np.random.Generator
    on_step: Callable[[int], bool]
    recovery: Callable[[int], Recovery] | None = None
    """From a number of steps to what compresses the student meanwhile; None: nothing does."""
    is_adaptive: bool = False
    """Temperature, λ and stop are the node's own choice, where there are soft labels."""
    remembered: Choice | None = None
    """What the node chose in the round that this one goes on from."""

    def course(self, **changes: Any) -> Course:
        """Makes the lesson's course on soft labels; `changes` are fields of `Course`."""
        course = Course(
            student=self.student,
            labels=self.labels,
            private=self.train,
            distillation=self.distillation,
            optimisation=self.optimisation,
            num_steps=self.num_steps,
            rng=self.rng,
            on_step=self.on_step,
        )
        return replace(course, **changes)

    def guest(self) -> Recovery | None:
        """Makes what compresses the student during this lesson's steps."""
        return None if self.recovery is None else self.recovery(self.num_steps)


@dataclass(frozen=True)
class Outcome:
    """What a round ends with; losses are nan where a scheme has none."""

    student: nn.Module
    distillation_loss: float
    private_loss: float
    upload: Rows | None = None
    choice: Choice | None = None
    learned_together: bool = False
    """As one of a batch of students, or ready to be."""


Learning = Generator[Course, Losses, Outcome]
"""A learner at work: it yields each course that it wants taken, and is sent the course's losses."""

Learner = Callable[[Lesson], Outcome | Learning]
"""What only trains by courses can be trained beside others; what trains by itself returns an outcome."""
