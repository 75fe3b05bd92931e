"""Learners at work side by side: what they want trained is trained as one, where it is of a kind."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Generator, Hashable, Sequence
from typing import TypeVar, cast

import numpy as np
import torch
from torch import nn
from torch.func import vmap

from fedstill.clients.cohorts.training import train_together
from fedstill.clients.course import Course, Losses
from fedstill.clients.schemes.records import Learner, Learning, Lesson, Outcome
from fedstill.common.costs import count_macs
from fedstill.common.losses import DistillLoss
from fedstill.common.models.batched import group_size, why_not_batched

Result = TypeVar("Result")


def why_alone(lesson: Lesson, learner: Learner) -> str:
    """Says why a lesson is learned by itself; "" where it is learned beside others.

    It depends on the lesson alone: who is learned with others is so in whatever company, and without any.
    """
    if not inspect.isgeneratorfunction(learner):
        return "its scheme trains by itself"
    if lesson.is_adaptive:
        return "it looks at itself between the steps"
    if lesson.recovery is not None:
        return "compression changes its shapes"
    if lesson.labels is not None and lesson.labels.hint is not None:
        return "it learns from features"
    if lesson.train.x_S.dtype == object:
        return "it reads raw texts"
    if not _serves_many(cast(Hashable, lesson.distillation.loss), lesson.num_classes):
        return "its loss has no form for many students at once"
    return why_not_batched(lesson.student, num_macs=_count_macs(lesson))


def learn_in_step(lessons: Sequence[Lesson], learner: Learner) -> list[Outcome | Exception]:
    """Lets a learner work through many lessons, side by side.

    Args:
        lessons: Of which `why_alone` says nothing; their students are changed in place.
        learner: The scheme's.

    Returns:
        How each ended, or what it raised; the others go on.
    """
    size = group_size(max(map(_count_macs, lessons)))
    ends = conclude_in_step([cast(Learning, learner(lesson)) for lesson in lessons], size=size)
    return [
        end if isinstance(end, Exception) else dataclasses.replace(end, learned_together=True) for end in ends
    ]


def conclude_in_step(
    at_work: Sequence[Generator[Course, Losses, Result]], *, size: int
) -> list[Result | Exception]:
    """Takes the courses that many ask for, those of a kind together, until all have ended.

    Args:
        at_work: Each yields courses and is sent their losses.
        size: Courses that are taken together at most.

    Returns:
        What each returned or raised; the others go on.
    """
    ends: dict[int, Result | Exception] = {}
    wanted: dict[int, Course] = {}

    def go_on(place: int, answer: Losses | Exception | None) -> None:
        learning = at_work[place]
        try:
            if isinstance(answer, Exception):
                wanted[place] = learning.throw(answer)
            else:
                wanted[place] = next(learning) if answer is None else learning.send(answer)
        except StopIteration as end:
            ends[place] = end.value
        except Exception as error:  # noqa: BLE001 - one lesson's end is not the others'
            ends[place] = error

    for place in range(len(at_work)):
        go_on(place, None)
    while wanted:
        together = _most_of_a_kind(wanted)[:size]
        losses = train_together([wanted.pop(place) for place in together])
        for place, answer in zip(together, losses, strict=True):
            go_on(place, answer)
    return [ends[place] for place in range(len(at_work))]


def _most_of_a_kind(wanted: dict[int, Course]) -> list[int]:
    kinds: dict[Hashable, list[int]] = {}
    for place in sorted(wanted):
        kinds.setdefault(_kind(wanted[place]), []).append(place)
    return max(kinds.values(), key=len)


def _kind(course: Course) -> Hashable:
    labels, given = course.labels, course.distillation
    return (
        _architecture(course.student),
        course.num_steps,
        course.optimisation,
        dataclasses.replace(given, distill_lambda=0.0),
        None if labels is None else (len(labels.x_S), labels.logits_SC.shape[1]),
        course.private.x_S.dtype,
        course.private.x_S.shape[1:],
        course.log_prior_C is None,
        course.proximal_mu,
    )


@functools.lru_cache(maxsize=64)
def _serves_many(function: Hashable, num_classes: int) -> bool:
    loss = cast(DistillLoss, function)
    # A stranger's loss may look at values or change them in place, and `torch.vmap` then refuses it.
    rng = np.random.default_rng(0)
    ours, theirs = (
        torch.from_numpy(rng.normal(0, 3, (3, 8, num_classes)).astype(np.float32)) for _ in range(2)
    )
    try:
        together = vmap(functools.partial(loss, temperature=4.0))(ours, theirs)
        each = torch.stack(
            [loss(one, other, temperature=4.0) for one, other in zip(ours, theirs, strict=True)]
        )
    except Exception:  # noqa: BLE001 - whatever it is, it is told where the loss is called by itself
        return False
    return bool(torch.allclose(together, each, rtol=1e-4))


_MACS: dict[Hashable, int] = {}


def _count_macs(lesson: Lesson) -> int:
    samples = lesson.train.x_S if lesson.public_S is None else lesson.public_S
    key = (_architecture(lesson.student), samples.shape[1:], samples.dtype)
    if key not in _MACS:
        _MACS[key] = count_macs(lesson.student, tuple(samples.shape[1:]), str(samples.dtype))
    return _MACS[key]


def _architecture(student: nn.Module) -> Hashable:
    return str(student), tuple((name, tuple(value.shape)) for name, value in student.named_parameters())
