"""`teacher`: soft labels on the public set, beside private labels; `local`: the floor.

Reference: Hinton, Vinyals, Dean 2015, arXiv:1503.02531.
"""

from __future__ import annotations

import torch

from fedstill.clients.distil import distil_student, train_alone
from fedstill.clients.schemes.adaptive import learn_adaptively
from fedstill.clients.schemes.records import Learner, Lesson, Outcome


def learn_from_teacher(lesson: Lesson) -> Outcome:
    """Distils the published soft labels, private labels beside them."""
    assert lesson.labels is not None  # the coordinator publishes them before the first round
    if lesson.is_adaptive:
        return learn_adaptively(lesson)
    distillation_loss, private_loss = distil_student(
        lesson.student,
        lesson.labels,
        lesson.train,
        distillation=lesson.distillation,
        optimisation=lesson.optimisation,
        num_steps=lesson.num_steps,
        rng=lesson.rng,
        on_step=lesson.on_step,
        guest=lesson.guest(),
    )
    return Outcome(lesson.student, distillation_loss, private_loss)


def learn_alone(lesson: Lesson, *, log_prior_C: torch.Tensor | None = None) -> Outcome:
    """Trains on private data alone; `log_prior_C` as in `train_alone`."""
    loss = train_alone(
        lesson.student,
        lesson.train,
        lesson.validation,
        batch_size=lesson.distillation.batch_size,
        optimisation=lesson.optimisation,
        num_steps=lesson.num_steps,
        rng=lesson.rng,
        on_step=lesson.on_step,
        guest=lesson.guest(),
        log_prior_C=log_prior_C,
    )
    return Outcome(lesson.student, float("nan"), loss)


BUILT_IN: dict[str, Learner] = {"teacher": learn_from_teacher, "local": learn_alone}
