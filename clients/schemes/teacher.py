"""`teacher`: soft labels on the public set, beside private labels; `local`: the floor.

Reference: Hinton, Vinyals, Dean 2015, arXiv:1503.02531.
"""

from __future__ import annotations

import torch

from fedstill.clients.schemes.adaptive import learn_adaptively
from fedstill.clients.schemes.records import Learner, Learning, Lesson, Outcome


def learn_from_teacher(lesson: Lesson) -> Learning:
    """Distils the published soft labels, private labels beside them."""
    assert lesson.labels is not None  # the coordinator publishes them before the first round
    if lesson.is_adaptive:
        return learn_adaptively(lesson)
    losses = yield lesson.course(guest=lesson.guest())
    return Outcome(lesson.student, losses.distillation, losses.private)


def learn_alone(lesson: Lesson, *, log_prior_C: torch.Tensor | None = None) -> Learning:
    """Trains on private data alone; `log_prior_C` as in `train_alone`."""
    losses = yield lesson.course(
        labels=None, validation=lesson.validation, guest=lesson.guest(), log_prior_C=log_prior_C
    )
    return Outcome(lesson.student, losses.distillation, losses.private)


BUILT_IN: dict[str, Learner] = {"teacher": learn_from_teacher, "local": learn_alone}
