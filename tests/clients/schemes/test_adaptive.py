"""What a node chooses for itself, and that it leaves alone what nothing speaks against."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fedstill.clients.choice import Choice, read_choice, write_choice
from fedstill.clients.distil import Distillation, SoftLabels
from fedstill.clients.private import LabelledSamples
from fedstill.clients.schemes import Lesson, get_learner, settle
from fedstill.clients.schemes.adaptive import (
    SHARES,
    TOLERANCE,
    Look,
    choose_share,
    choose_temperature,
    keeps_floor,
)
from fedstill.clients.schemes.evidence import gather_evidence
from fedstill.common.features import find_head
from fedstill.common.losses import get_loss
from fedstill.common.models import build_model, measure_input
from fedstill.common.training import Optimisation, deterministic, digest_weights, predict_logits

NUM_CLASSES = 3
RNG = np.random.default_rng(7)
# Classes 0 and 1 lie upon each other, so what frequencies say decides between them.
CENTRES = np.array([[0, 0, 0], [1.0, 0, 0], [0, 6, 0]], np.float32)


@pytest.fixture(autouse=True)
def _one_thread():
    with deterministic(0, num_threads=1):
        yield


def draw(classes: np.ndarray) -> np.ndarray:
    return (CENTRES[classes] + RNG.normal(0, 1, (len(classes), 3))).astype(np.float32)


def true_logits(x_S: np.ndarray) -> np.ndarray:
    distance_SC = ((x_S[:, None, :] - CENTRES[None]) ** 2).sum(axis=2)
    return (-distance_SC / 2).astype(np.float32)


PUBLIC = draw(RNG.integers(0, NUM_CLASSES, 400))
SKEWED = np.repeat([0, 2], [110, 50])
SKEWED_X = draw(SKEWED)
SPEC = measure_input(PUBLIC, task="tabular", layout="F", scale=1.0)
PLAIN = Choice(4.0, 0.9, 10, 1.0, 0.9, 0.9, 12, 0, "")


def skewed_lesson(**changes: object) -> Lesson:
    torch.manual_seed(0)
    order = np.random.default_rng(3).permutation(len(SKEWED))
    train, validation = order[:100], order[100:]
    lesson = Lesson(
        student=build_model("mlp-small", SPEC, num_classes=NUM_CLASSES, width=0.25),
        train=LabelledSamples(SKEWED_X[train], SKEWED[train]),
        validation=LabelledSamples(SKEWED_X[validation], SKEWED[validation]),
        num_classes=NUM_CLASSES,
        public_S=PUBLIC,
        labels=SoftLabels(PUBLIC, true_logits(PUBLIC)),
        shared=None,
        own=None,
        distillation=Distillation(get_loss("kl"), 4.0, 0.9, 16),
        optimisation=Optimisation(2e-2, 0.0),
        num_steps=120,
        proximal_mu=0.0,
        wants_upload=False,
        selective_quantile=0.0,
        revisit_ratio=0.5,
        own_weight=1.0,
        rng=np.random.default_rng(1),
        on_step=lambda step: False,
        is_adaptive=True,
    )
    return dataclasses.replace(lesson, **changes)


def accuracy(student: torch.nn.Module, samples: LabelledSamples) -> float:
    return float(np.mean(predict_logits(student, samples.x_S).argmax(axis=1) == samples.y_S))


def test_a_node_with_few_classes_keeps_its_private_accuracy():
    fixed = get_learner("teacher")(skewed_lesson(is_adaptive=False)).student
    lesson = skewed_lesson()
    outcome = get_learner("teacher")(lesson)
    settle(lesson, outcome)
    fresh_y = np.repeat([0, 2], [600, 300])
    fresh = LabelledSamples(draw(fresh_y), fresh_y)
    assert outcome.choice.public_share < 1
    assert accuracy(fixed, fresh) < 0.9
    assert accuracy(outcome.student, fresh) > 0.95


def test_where_the_floor_is_kept_the_student_is_the_fixed_one():
    y = np.random.default_rng(5).integers(0, NUM_CLASSES, 60)
    train, labels = LabelledSamples(draw(y), y), SoftLabels(PUBLIC, true_logits(PUBLIC))
    spread = float(np.std(labels.logits_SC, axis=1).mean())
    labels = SoftLabels(PUBLIC, labels.logits_SC * (5.0 / spread))
    empty = LabelledSamples(np.empty((0, 3), np.float32), np.empty(0, np.int64))
    changes = {"train": train, "validation": empty, "labels": labels, "num_steps": 100}
    fixed = get_learner("teacher")(skewed_lesson(is_adaptive=False, **changes))
    lesson = skewed_lesson(**changes)
    chosen = get_learner("teacher")(lesson)
    settle(lesson, chosen)
    assert (chosen.choice.temperature, chosen.choice.distill_lambda) == (4.0, 0.9)
    assert chosen.choice.public_share == 1.0
    assert chosen.choice.num_steps == 100
    assert digest_weights(chosen.student) == digest_weights(fixed.student)


def test_a_teacher_that_is_wrong_here_is_trusted_less():
    wrong = np.roll(true_logits(PUBLIC), 1, axis=1)
    lesson = skewed_lesson(labels=SoftLabels(PUBLIC, wrong))
    choice = get_learner("teacher")(lesson).choice
    assert choice.distill_lambda < 0.9
    assert "lambda" in choice.why
    assert choice.num_trial_steps > 60


def test_the_next_round_begins_with_the_lambda_that_was_kept_and_without_the_shift():
    before = dataclasses.replace(PLAIN, distill_lambda=0.45, public_share=0.5)
    seen = []
    lesson = skewed_lesson(remembered=before)
    bias = find_head(lesson.student).bias.detach().clone()
    lesson = dataclasses.replace(
        lesson, on_step=lambda step: seen.append(find_head(lesson.student).bias.detach().clone()) or False
    )
    assert get_learner("teacher")(lesson).choice.distill_lambda <= 0.45
    y = np.concatenate([lesson.train.y_S, lesson.validation.y_S])
    frequencies = (np.bincount(y, minlength=3) + 0.5 / 3) / (len(y) + 0.5)
    expected = bias.numpy() - np.log(0.5 + 0.5 * 3 * frequencies)
    np.testing.assert_allclose(seen[0].numpy(), expected, atol=1e-6)


def test_lambda_rises_again_once_the_floor_is_kept_without_a_shift():
    before = dataclasses.replace(PLAIN, distill_lambda=0.225)
    y = np.random.default_rng(5).integers(0, NUM_CLASSES, 60)
    lesson = skewed_lesson(train=LabelledSamples(draw(y), y), remembered=before)
    assert get_learner("teacher")(lesson).choice.distill_lambda == 0.45


@pytest.mark.parametrize(
    ("accuracies", "alone", "expected"),
    [
        ({1.0: 0.90, 0.5: 0.94, 0.3: 0.96, 0.1: 0.99}, 0.96, 0.3),  # the largest that is enough
        ({1.0: 0.70, 0.5: 0.80, 0.3: 0.75}, 0.96, 0.5),  # out of reach: the best there is
    ],
)
def test_the_share_moves_no_further_than_the_floor_asks(accuracies, alone, expected):
    assert choose_share(accuracies, alone=alone) == expected


def test_a_gap_that_chance_explains_moves_nothing():
    few = dataclasses.replace(gather_evidence(skewed_lesson()), num_shrink=0)  # 60 validation samples
    floor = np.ones(len(few.validation) + len(few.classes_P), bool)
    hits = floor.copy()
    hits[0] = False  # .017 ± .017
    assert keeps_floor(few, floor, hits)
    hits[:6] = False  # .1 ± .04
    assert not keeps_floor(few, floor, hits)


def test_probes_have_the_nodes_own_class_frequencies():
    evidence = gather_evidence(skewed_lesson())
    shares = np.bincount(evidence.classes_P, weights=evidence.weights_P, minlength=NUM_CLASSES)
    np.testing.assert_allclose(shares, evidence.frequencies_C, atol=1e-6)
    assert evidence.weights_P.sum() == pytest.approx(1.0)


def test_shares_fall_from_one():
    assert SHARES[0] == 1.0
    assert list(SHARES) == sorted(SHARES, reverse=True)
    assert 0 < TOLERANCE < 0.05


def test_temperature_follows_the_spread_of_the_logits():
    lesson = skewed_lesson()
    logits = np.array([[1.0, -1.0], [1.0, -1.0]], np.float32)  # a spread of 1
    assert choose_temperature(logits * 5, lesson=lesson) == pytest.approx(4.0)
    assert choose_temperature(logits * 2, lesson=lesson) == pytest.approx(1.6)
    assert choose_temperature(logits * 15, lesson=lesson) == pytest.approx(12.0)
    assert choose_temperature(logits * 0.01, lesson=lesson) == 1.0
    assert choose_temperature(logits * 1000, lesson=lesson) == 20.0


@pytest.mark.parametrize("spread", [2.6, 9.9])
def test_a_spread_that_is_nearly_usual_moves_no_temperature(spread):
    logits = np.array([[1.0, -1.0]], np.float32) * spread
    assert choose_temperature(logits, lesson=skewed_lesson()) == 4.0


@pytest.mark.parametrize(
    ("later", "is_worse"),
    [
        ([0.5, 0.7, 0.6, 0.6], True),  # each worse by .1 or so: .1 ± .04
        ([0.1, 1.1, 0.5, 0.7], False),  # .1 in the mean, ± .2
        ([0.3, 0.5, 0.4, 0.4], False),  # better
    ],
)
def test_a_later_look_is_worse_only_beyond_the_error_of_its_samples(later, is_worse):
    earlier_S, later_S = np.array([0.5, 0.5, 0.5, 0.5]), np.array(later)
    looks = [Look(float(np.mean(private_S)), private_S) for private_S in (earlier_S, later_S)]
    assert looks[1].is_worse(looks[0]) is is_worse


def test_a_single_sample_calls_no_step_worse():
    assert not Look(9.0, np.array([9.0])).is_worse(Look(0.1, np.array([0.1])))


def test_a_student_that_overfits_goes_back_to_earlier_weights():
    # Private labels are noise, so what is learnt of them shows on the validation part at once.
    noise = np.random.default_rng(11)
    train = LabelledSamples(SKEWED_X[:12], noise.integers(0, NUM_CLASSES, 12))
    lesson = skewed_lesson(
        train=train,
        distillation=Distillation(get_loss("kl"), 4.0, 0.05, 16),
        num_steps=400,
    )
    assert get_learner("teacher")(lesson).choice.num_steps < 400


def test_a_loss_that_standardises_keeps_its_temperature():
    distillation = Distillation(get_loss("standardised"), 2.0, 0.9, 16)
    lesson = skewed_lesson(distillation=distillation)
    assert choose_temperature(np.eye(3, dtype=np.float32) * 50, lesson=lesson) == 2.0


def test_the_same_round_is_chosen_the_same():
    first, second = (get_learner("teacher")(skewed_lesson()) for _ in range(2))
    assert first.choice == second.choice
    assert digest_weights(first.student) == digest_weights(second.student)


def test_a_choice_survives_the_disk(tmp_path):
    write_choice(tmp_path, PLAIN)
    assert read_choice(tmp_path) == PLAIN


def test_a_damaged_choice_counts_as_none(tmp_path):
    (tmp_path / "choice.json").write_text('{"temperature": 4', encoding="utf-8")
    assert read_choice(tmp_path) is None
