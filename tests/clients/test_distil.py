"""What a student learns from soft labels, and the control that has none."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from fedstill.clients.distil import Distillation, SoftLabels, distil_student, train_alone
from fedstill.clients.private import LabelledSamples
from fedstill.common.losses import get_loss
from fedstill.common.training import Optimisation, deterministic, digest_weights, predict_logits

OPTIMISATION = Optimisation(learning_rate=0.01, weight_decay=1e-4)


def build(seed=0):
    with deterministic(seed, num_threads=1):
        return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))


def draw(num_samples, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=num_samples)
    x = (np.eye(4)[y] * 2 + rng.normal(0, 1, (num_samples, 4))).astype(np.float32)
    return LabelledSamples(x, y)


def draw_soft_labels(seed=0):
    logits = np.random.default_rng(seed + 50).normal(0, 3, (60, 3)).astype(np.float32)
    return SoftLabels(draw(60, seed=9).x_S, logits)


def distil(labels, private, *, weight=0.5, num_steps=30, seed=0, **options):
    student = build()
    with deterministic(seed, num_threads=1):
        losses = distil_student(
            student,
            labels,
            private,
            distillation=Distillation(get_loss("kl"), 4.0, weight, 16),
            optimisation=OPTIMISATION,
            num_steps=num_steps,
            rng=np.random.default_rng(seed),
            **options,
        )
    return digest_weights(student), losses


def alone(student, private, validation, *, num_steps=40, learning_rate=0.01, on_step=None):
    with deterministic(0, num_threads=1):
        return train_alone(
            student,
            private,
            validation,
            batch_size=8,
            optimisation=Optimisation(learning_rate, 0.0),
            num_steps=num_steps,
            rng=np.random.default_rng(0),
            on_step=on_step,
        )


def cross_entropy(model, samples):
    logits = torch.from_numpy(predict_logits(model, samples.x_S))
    return nn.functional.cross_entropy(logits, torch.from_numpy(samples.y_S)).item()


def shuffle_labels(samples):
    return LabelledSamples(samples.x_S, np.roll(samples.y_S, 1))


def test_a_student_comes_near_its_teacher(digits, student):
    public = digits.dataset.x_train[:700]
    pupil = copy.deepcopy(student)
    for module in pupil.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    with deterministic(1, num_threads=1):
        distil_student(
            pupil,
            SoftLabels(public, predict_logits(student, public)),
            LabelledSamples(digits.dataset.x_train[:0], digits.dataset.y_train[:0]),
            distillation=Distillation(get_loss("kl"), 4.0, 0.9, 32),
            optimisation=Optimisation(0.01, 1e-4),
            num_steps=400,
            rng=np.random.default_rng(0),
        )
    x, y = digits.dataset.x_test, digits.dataset.y_test
    teacher_accuracy, accuracy = (
        np.mean(predict_logits(model, x).argmax(1) == y) for model in (student, pupil)
    )
    assert accuracy >= teacher_accuracy - 0.04


def test_the_same_seed_gives_the_same_bits():
    assert distil(draw_soft_labels(), draw(20)) == distil(draw_soft_labels(), draw(20))


def test_lambda_one_ignores_private_labels():
    private = draw(20)
    first, _ = distil(draw_soft_labels(), private, weight=1.0)
    second, _ = distil(draw_soft_labels(), shuffle_labels(private), weight=1.0)
    assert first == second


def test_lambda_zero_ignores_soft_labels():
    first, _ = distil(draw_soft_labels(1), draw(20), weight=0.0)
    second, _ = distil(draw_soft_labels(2), draw(20), weight=0.0)
    assert first == second


@pytest.mark.parametrize("weight", [0.1, 0.9])
def test_between_them_both_count(weight):
    base, _ = distil(draw_soft_labels(1), draw(20), weight=weight)
    assert distil(draw_soft_labels(2), draw(20), weight=weight)[0] != base
    assert distil(draw_soft_labels(1), shuffle_labels(draw(20)), weight=weight)[0] != base


@pytest.mark.parametrize("weight", [0.0, 0.9])
def test_an_empty_private_part_leaves_the_soft_labels_alone(weight):
    digest, (distillation_loss, private_loss) = distil(draw_soft_labels(), draw(0), weight=weight)
    assert digest == distil(draw_soft_labels(), draw(0), weight=1.0)[0]
    assert math.isfinite(distillation_loss)
    assert math.isnan(private_loss)


@pytest.mark.parametrize("num_private", [1, 3, 8, 200])
def test_any_number_of_private_samples_will_do(num_private):
    _, losses = distil(draw_soft_labels(), draw(num_private))
    assert all(math.isfinite(loss) for loss in losses)


def test_both_losses_fall():
    labels = SoftLabels(draw(60).x_S, 6 * np.eye(3, dtype=np.float32)[draw(60).y_S])
    _, early = distil(labels, draw(20, seed=1), num_steps=6)
    _, late = distil(labels, draw(20, seed=1), num_steps=200)
    assert late[0] < early[0]
    assert late[1] < early[1]


def test_distilling_reads_memory_maps(tmp_path):
    labels = draw_soft_labels()
    np.save(tmp_path / "x.npy", labels.x_S)
    np.save(tmp_path / "logits.npy", labels.logits_SC)
    mapped = SoftLabels(*(np.load(tmp_path / name, mmap_mode="r") for name in ("x.npy", "logits.npy")))
    assert distil(mapped, draw(20)) == distil(labels, draw(20))


def test_a_deadline_can_interrupt():
    def give_up(step):
        if step == 3:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        distil(draw_soft_labels(), draw(20), on_step=give_up)


def test_the_control_learns():
    student = build()
    before = cross_entropy(student, draw(40))
    alone(student, draw(40), draw(0), num_steps=100)
    assert cross_entropy(student, draw(40)) < before / 2


def test_the_control_keeps_the_weights_that_did_best_on_validation():
    # Random private labels: the longer it learns them, the worse it does on true ones.
    private = LabelledSamples(draw(24).x_S, np.random.default_rng(7).integers(3, size=24))
    validation, student = draw(60, seed=3), build()
    seen = []
    alone(
        student,
        private,
        validation,
        num_steps=200,
        learning_rate=0.1,
        on_step=lambda step: seen.append(cross_entropy(student, validation)) is not None,
    )
    looked_at = seen[9::10]
    assert cross_entropy(student, validation) == pytest.approx(min(looked_at), rel=1e-5)
    assert min(looked_at) < seen[-1]


def test_without_validation_the_control_keeps_the_last_weights():
    first, second, digests = build(), build(), []
    alone(first, draw(24), draw(0), on_step=lambda step: digests.append(digest_weights(first)) is not None)
    alone(second, draw(24), draw(0))
    assert digest_weights(first) == digests[-1] == digest_weights(second)


def test_looking_at_validation_does_not_change_the_steps():
    first, second, trail = build(), build(), {1: [], 2: []}
    for key, model, validation in ((1, first, draw(0)), (2, second, draw(30, seed=3))):
        alone(
            model,
            draw(24),
            validation,
            on_step=lambda step, k=key, m=model: trail[k].append(digest_weights(m)),
        )
    assert trail[1] == trail[2]


def test_the_control_reports_its_private_loss():
    student = build()
    loss = alone(student, draw(24), draw(0), num_steps=100)
    assert loss == pytest.approx(cross_entropy(student, draw(24)), abs=0.3)
