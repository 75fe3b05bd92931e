"""The contract that every loss of the registry passes through, and the cases of each."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch.nn import functional

from common.errors import ConfigError
from common.losses import LOSSES, get_loss

every_loss = pytest.mark.parametrize("name", sorted(LOSSES))
LOGITS = hnp.arrays(np.float32, (3, 4), elements=st.floats(-30, 30, width=32))


def draw_logits(seed, shape=(6, 5), spread=3.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * spread


@every_loss
def test_loss_is_a_scalar(name):
    assert get_loss(name)(draw_logits(0), draw_logits(1), temperature=2.0).shape == ()


@every_loss
def test_equal_logits_cost_nothing(name):
    logits = draw_logits(0)
    assert get_loss(name)(logits, logits.clone(), temperature=3.0).item() == pytest.approx(0, abs=1e-6)


@every_loss
def test_a_constant_per_row_changes_nothing(name):
    student, teacher = draw_logits(0), draw_logits(1)
    shift = torch.arange(6.0)[:, None] * 5
    loss = get_loss(name)(student, teacher, temperature=2.0)
    torch.testing.assert_close(get_loss(name)(student, teacher + shift, temperature=2.0), loss)
    torch.testing.assert_close(get_loss(name)(student - shift, teacher, temperature=2.0), loss)


@every_loss
def test_different_predictions_cost_something(name):
    assert get_loss(name)(draw_logits(0), draw_logits(1), temperature=2.0).item() > 0.01


@every_loss
def test_gradient_reaches_the_student_only(name):
    student, teacher = draw_logits(0).requires_grad_(), draw_logits(1).requires_grad_()
    get_loss(name)(student, teacher, temperature=2.0).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


@every_loss
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_loss_and_gradient_stay_finite_at_extreme_logits(name, size):
    student = torch.tensor([[size, -size, 0.0], [0.0, size, size]], requires_grad=True)
    teacher = torch.tensor([[-size, size, 0.0], [size, 0.0, -size]])
    loss = get_loss(name)(student, teacher, temperature=1.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


@every_loss
def test_loss_is_a_mean_over_samples(name):
    student, teacher = draw_logits(0), draw_logits(1)
    twice = get_loss(name)(student.repeat(2, 1), teacher.repeat(2, 1), temperature=2.0)
    torch.testing.assert_close(twice, get_loss(name)(student, teacher, temperature=2.0))


@every_loss
def test_a_step_down_the_gradient_lowers_the_loss(name):
    student, teacher = draw_logits(0).requires_grad_(), draw_logits(1)
    before = get_loss(name)(student, teacher, temperature=2.0)
    before.backward()
    after = get_loss(name)(student.detach() - 0.1 * student.grad, teacher, temperature=2.0)
    assert after < before


@every_loss
@settings(deadline=None)
@given(student=LOGITS, teacher=LOGITS, temperature=st.floats(0.5, 20))
def test_loss_is_never_negative(name, student, teacher, temperature):
    loss = get_loss(name)(torch.from_numpy(student), torch.from_numpy(teacher), temperature=temperature)
    assert loss.item() >= -1e-6 * temperature**2


def test_kl_by_hand():
    # Teacher (.75, .25), student (.5, .5): .75·ln 1.5 + .25·ln .5 = .130812 nats.
    teacher = torch.tensor([[np.log(3.0), 0.0]], dtype=torch.float64)
    loss = get_loss("kl")(torch.zeros(1, 2, dtype=torch.float64), teacher, temperature=1.0)
    assert loss.item() == pytest.approx(0.130812, abs=1e-6)


def test_kl_weighs_by_the_square_of_the_temperature():
    teacher = torch.tensor([[4 * np.log(3.0), 0.0]], dtype=torch.float64)
    loss = get_loss("kl")(torch.zeros(1, 2, dtype=torch.float64), teacher, temperature=4.0)
    assert loss.item() == pytest.approx(16 * 0.130812, abs=1e-5)


def test_kl_equals_torchs_formula_on_probabilities():
    student, teacher = draw_logits(0).double(), draw_logits(1).double()
    expected = 9 * functional.kl_div(
        functional.log_softmax(student / 3, dim=1),
        functional.softmax(teacher / 3, dim=1),
        reduction="batchmean",
    )
    torch.testing.assert_close(get_loss("kl")(student, teacher, temperature=3.0), expected)


def test_kl_gradient_is_temperature_times_the_difference_of_soft_labels():
    student, teacher = draw_logits(0).double().requires_grad_(), draw_logits(1).double()
    get_loss("kl")(student, teacher, temperature=3.0).backward()
    expected = 3 * ((student / 3).softmax(1) - (teacher / 3).softmax(1)) / len(student)
    torch.testing.assert_close(student.grad, expected.detach())


def test_kl_golden_value():
    student = torch.arange(12, dtype=torch.float64).reshape(3, 4) * 7 % 5
    teacher = torch.arange(12, dtype=torch.float64).reshape(3, 4) * 3 % 7
    assert get_loss("kl")(student, teacher, temperature=2.0).item() == pytest.approx(
        0.7134886074721328, rel=1e-9
    )


def test_unknown_loss_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"unknown distill.loss 'kll'; did you mean 'kl'\? Known: .*kl"):
        get_loss("kll")
