"""Students that are trained in one batch: as if each were alone, whoever else is there."""

import copy
import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from fedstill.clients.cohorts.lockstep import learn_in_step, why_alone
from fedstill.clients.cohorts.training import train_together
from fedstill.clients.course import Course, follow
from fedstill.clients.distil import Distillation, SoftLabels, class_log_prior
from fedstill.clients.hints import Hint
from fedstill.clients.private import LabelledSamples
from fedstill.clients.schemes import LEARNERS, Rows, get_learner
from fedstill.clients.schemes.weights import flatten_weights
from fedstill.common.errors import ExchangeError
from fedstill.common.losses import LOSSES, get_loss
from fedstill.common.models import measure_input
from fedstill.common.training import Optimisation, deterministic
from fedstill.common.views import ViewPlan, open_views
from tests.clients.schemes.test_learners import a_lesson, a_student
from tests.common.models.test_batched import KINDS, build

NUM_STEPS = 100
# What two orders of the same sums make of weights after as many steps.
CLOSE = {"embedding-bag": 1e-5}
NUM_PRIVATE = (30, 5, 0, 23, 17, 30, 9)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As on a node; more only get in each other's way here."""
    with deterministic(0, num_threads=1):
        yield


def a_course(
    name: str, place: int, *, alone: bool = False, num_steps: int = NUM_STEPS, **changes: object
) -> Course:
    """The course of one node of many, whose private part has a size of its own."""
    samples, about = KINDS[name]
    rng = np.random.default_rng(place)
    size = NUM_PRIVATE[place % len(NUM_PRIVATE)] or (5 if alone else 0)
    index = rng.integers(0, len(samples), size)
    y = rng.integers(0, 3, size)
    logits = np.random.default_rng(7).normal(0, 3, (len(samples), 3)).astype(np.float32)
    course = Course(
        student=build(name, samples, place, **about),
        labels=None if alone else SoftLabels(samples, logits),
        private=LabelledSamples(samples[index], y),
        distillation=Distillation(get_loss("kl"), 4.0, 0.7, 16),
        optimisation=Optimisation(5e-3, 1e-4),
        num_steps=num_steps,
        rng=np.random.default_rng(place + 100),
        on_step=lambda step: False,
        validation=LabelledSamples(samples[: 3 * place], rng.integers(0, 3, 3 * place)) if alone else None,
        log_prior_C=class_log_prior(y, num_classes=3) if alone else None,
    )
    return dataclasses.replace(course, **changes)


def weights(course: Course) -> np.ndarray:
    return flatten_weights(course.student)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("alone", [False, True])
def test_students_end_as_they_do_by_themselves(name: str, alone: bool) -> None:
    by_themselves, beside = ([a_course(name, place, alone=alone) for place in range(4)] for _ in range(2))
    expected = [follow(course) for course in by_themselves]
    found = train_together(beside)
    for one, other in zip(by_themselves, beside, strict=True):
        np.testing.assert_allclose(weights(other), weights(one), atol=CLOSE.get(name, 1e-6), rtol=0)
        assert not other.student.training
    np.testing.assert_allclose(found, expected, rtol=1e-4, equal_nan=True)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("alone", [False, True])
def test_a_student_is_the_same_to_the_bit_in_any_company(name: str, alone: bool) -> None:
    seen: dict[int, tuple[bytes, str]] = {}
    for company in ([0], [1], [2], [1, 0], [4, 2, 0, 1, 3], list(range(13)), list(range(12, -1, -1))):
        courses = [a_course(name, place, alone=alone, num_steps=15) for place in company]
        for place, course, losses in zip(company, courses, train_together(courses), strict=True):
            mine = weights(course).tobytes(), repr(losses)
            assert seen.setdefault(place, mine) == mine, (company, place)


def test_the_proximal_term_holds_students_alike() -> None:
    changes = {"alone": True, "proximal_mu": 0.5, "validation": None}
    one, other = (a_course("mlp-small", 3, **changes) for _ in range(2))
    free = a_course("mlp-small", 3, alone=True, validation=None)
    follow(one), train_together([other]), train_together([free])
    np.testing.assert_allclose(weights(other), weights(one), atol=1e-6)
    assert np.abs(weights(free) - weights(one)).max() > 1e-3


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_is_computed_for_each_student(loss: str) -> None:
    given = Distillation(get_loss(loss), 4.0, 0.7, 16)
    one, other = (a_course("mlp-small", 0, num_steps=20, distillation=given) for _ in range(2))
    expected = follow(one)
    again = a_course("mlp-small", 0, num_steps=20, distillation=given)
    (found, *_) = train_together([other, a_course("mlp-small", 1, num_steps=20, distillation=given)])
    assert [found] == train_together([again])
    assert (weights(again) == weights(other)).all()
    np.testing.assert_allclose(weights(other), weights(one), atol=1e-5)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_views_are_those_that_a_student_by_itself_sees() -> None:
    samples, about = KINDS["cnn-tiny"]
    views = open_views(samples, ViewPlan(num_views=3, seed=5), measure_input(samples, **about))
    logits = np.random.default_rng(7).normal(0, 3, (len(views), 3)).astype(np.float32)
    pair = [
        [a_course("cnn-tiny", k, labels=SoftLabels(views, logits), num_steps=20) for k in range(2)]
        for _ in "ab"
    ]
    for course in pair[0]:
        follow(course)
    train_together(pair[1])
    for one, other in zip(*pair, strict=True):
        np.testing.assert_allclose(weights(other), weights(one), atol=1e-6)


def test_one_whose_time_is_up_leaves_the_others_as_they_are() -> None:
    def give_up(step: int) -> bool:
        if step == 5:
            raise ExchangeError("too late")
        return False

    late, other = a_course("mlp-small", 0, on_step=give_up), a_course("mlp-small", 1)
    alone = a_course("mlp-small", 1)
    failure, losses = train_together([late, other])
    assert isinstance(failure, ExchangeError)
    assert [losses] == train_together([alone])
    assert (weights(other) == weights(alone)).all()


def test_all_being_late_ends_the_steps() -> None:
    steps: list[int] = []

    def give_up(step: int) -> bool:
        steps.append(step)
        raise ExchangeError("too late")

    failures = train_together([a_course("mlp-small", place, on_step=give_up) for place in range(2)])
    assert [type(failure) for failure in failures] == [ExchangeError] * 2
    assert steps == [1, 1]


def test_one_that_is_no_number_any_more_leaves_the_others_as_they_are() -> None:
    broken, other, alone = a_course("mlp-small", 0), a_course("mlp-small", 1), a_course("mlp-small", 1)
    with torch.no_grad():
        next(broken.student.parameters()).fill_(math.nan)
    lost, losses = train_together([broken, other])
    assert math.isnan(lost.distillation)
    assert [losses] == train_together([alone])
    assert (weights(other) == weights(alone)).all()


def the_lesson(name: str, place: int, **changes: object):
    lesson = a_lesson(student=a_student(place), rng=np.random.default_rng(place), **changes)
    if name == "weights":
        return dataclasses.replace(lesson, shared=Rows(flatten_weights(a_student(9))[None], np.ones(1)))
    return lesson


@pytest.mark.parametrize("name", ["teacher", "local", "weights", "ensemble", "co-teaching"])
@pytest.mark.parametrize("round_number", [1, 2])
def test_schemes_learn_in_step_what_each_node_learns_by_itself(name: str, round_number: int) -> None:
    changes = {"labels": None} if round_number == 1 and name in ("ensemble", "co-teaching") else {}
    by_themselves, in_step = ([the_lesson(name, place, **changes) for place in range(3)] for _ in range(2))
    assert not any(why_alone(lesson, LEARNERS[name]) for lesson in in_step)
    expected = [get_learner(name)(lesson) for lesson in by_themselves]
    for one, other in zip(expected, learn_in_step(in_step, LEARNERS[name]), strict=True):
        assert other.learned_together
        assert not one.learned_together
        np.testing.assert_allclose(flatten_weights(other.student), flatten_weights(one.student), atol=1e-6)
        if one.upload is not None:
            np.testing.assert_allclose(other.upload.values, one.upload.values, atol=1e-4)
            assert (other.upload.counts_R == one.upload.counts_R).all()


def test_a_lesson_that_fails_between_its_courses_is_told_and_the_others_end() -> None:
    lessons = [the_lesson("ensemble", place) for place in range(2)]
    lessons[0] = dataclasses.replace(
        lessons[0],
        selective_quantile=0.5,
        train=LabelledSamples(lessons[0].train.x_S[:0], lessons[0].train.y_S[:0]),
    )
    failure, outcome = learn_in_step(lessons, LEARNERS["ensemble"])
    assert isinstance(failure, Exception)
    assert outcome.upload is not None


@pytest.mark.parametrize(
    ("changes", "scheme", "reason"),
    [
        ({}, "classwise", "trains by itself"),
        ({"is_adaptive": True}, "teacher", "looks at itself"),
        ({"recovery": lambda num_steps: None}, "teacher", "compression"),
        (
            {
                "labels": SoftLabels(
                    np.zeros((2, 6)), np.zeros((2, 3)), Hint("hint", np.zeros((2, 4)), 1.0, 0)
                )
            },
            "teacher",
            "features",
        ),
    ],
)
def test_what_is_learned_alone_says_why(changes: dict[str, object], scheme: str, reason: str) -> None:
    assert reason in why_alone(a_lesson(**changes), LEARNERS[scheme])


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_every_optimiser_and_schedule_is_that_of_each_student(optimiser: str, schedule: str) -> None:
    momentum = 0.9 if optimiser == "sgd" else 0.0
    settings = Optimisation(1e-2, 1e-3, optimiser=optimiser, momentum=momentum, schedule=schedule)
    one, other, again = (a_course("cnn-tiny", 1, num_steps=20, optimisation=settings) for _ in range(3))
    follow(one), train_together([a_course("cnn-tiny", 0, num_steps=20, optimisation=settings), other])
    np.testing.assert_allclose(weights(other), weights(one), atol=1e-6)
    train_together([again])
    assert (weights(again) == weights(other)).all()


def peeking(student_logits, teacher_logits, /, *, temperature):
    """A loss that looks at values, as a stranger's may."""
    if float(student_logits.detach().abs().max()) > 1e9:
        return student_logits.sum()
    return get_loss("kl")(student_logits, teacher_logits, temperature=temperature)


def test_a_loss_that_looks_at_values_is_learned_alone() -> None:
    lesson = a_lesson(distillation=Distillation(peeking, 4.0, 0.5, 8))
    assert "loss" in why_alone(lesson, LEARNERS["teacher"])


def test_raw_texts_and_foreign_layers_are_learned_alone() -> None:
    lesson = a_lesson()
    texts = LabelledSamples(np.array(["a", "b"], object), np.zeros(2, np.int64))
    assert "raw texts" in why_alone(dataclasses.replace(lesson, train=texts), LEARNERS["teacher"])
    student = copy.deepcopy(lesson.student)
    student.append(torch.nn.Softplus())
    assert "Softplus" in why_alone(dataclasses.replace(lesson, student=student), LEARNERS["teacher"])
