"""The contract that every loss of the registry passes through, and the cases of each."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch.nn import functional

from fedstill.common.errors import ConfigError
from fedstill.common.losses import LOSSES, get_loss
from fedstill.common.losses.dkd import decoupled_divergence

every_loss = pytest.mark.parametrize("name", sorted(LOSSES))
# What softmax cannot see, these do not see either; `mse` compares the logits themselves.
every_loss_of_soft_labels = pytest.mark.parametrize("name", sorted(set(LOSSES) - {"mse"}))
needs_other_classes = pytest.mark.parametrize("name", ["dkd", "ntd"])
LOGITS = hnp.arrays(np.float32, (3, 4), elements=st.floats(-30, 30, width=32))


def draw_logits(seed, shape=(6, 5), spread=3.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * spread


def golden_logits():
    numbers = torch.arange(12, dtype=torch.float64).reshape(3, 4)
    return numbers * 7 % 5, numbers * 3 % 7


@every_loss
def test_loss_is_a_scalar(name):
    assert get_loss(name)(draw_logits(0), draw_logits(1), temperature=2.0).shape == ()


@every_loss
def test_equal_logits_cost_nothing(name):
    logits = draw_logits(0)
    assert get_loss(name)(logits, logits.clone(), temperature=3.0).item() == pytest.approx(0, abs=1e-6)


@every_loss_of_soft_labels
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
def test_order_of_the_samples_does_not_matter(name):
    student, teacher = draw_logits(0), draw_logits(1)
    turned = get_loss(name)(student.flip(0), teacher.flip(0), temperature=2.0)
    torch.testing.assert_close(turned, get_loss(name)(student, teacher, temperature=2.0))


@every_loss
def test_names_of_the_classes_do_not_matter(name):
    student, teacher = draw_logits(0), draw_logits(1)
    turned = get_loss(name)(student.flip(1), teacher.flip(1), temperature=2.0)
    torch.testing.assert_close(turned, get_loss(name)(student, teacher, temperature=2.0))


@every_loss
@pytest.mark.parametrize("num_samples", [1, 4])
def test_a_student_that_predicts_nothing_yet_gets_a_finite_gradient(name, num_samples):
    student = torch.zeros(num_samples, 5, requires_grad=True)
    loss = get_loss(name)(student, draw_logits(1, (num_samples, 5)), temperature=4.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


@every_loss
def test_a_teacher_that_knows_nothing_gives_a_finite_gradient(name):
    student = draw_logits(0).requires_grad_()
    loss = get_loss(name)(student, torch.zeros(6, 5), temperature=4.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


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
@settings(deadline=None, max_examples=40)
@given(student=LOGITS, teacher=LOGITS, temperature=st.floats(0.5, 20))
def test_loss_is_never_negative(name, student, teacher, temperature):
    loss = get_loss(name)(torch.from_numpy(student), torch.from_numpy(teacher), temperature=temperature)
    assert loss.item() >= -1e-6 * max(1, temperature**2)


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
    loss = get_loss("kl")(*golden_logits(), temperature=2.0)
    assert loss.item() == pytest.approx(0.7134886074721328, rel=1e-9)


def test_mse_by_hand():
    # (1 + 4 + 9) / 3 and (0 + 0 + 16) / 3; their mean is 5.
    student = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    teacher = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 4.0]])
    assert get_loss("mse")(student, teacher, temperature=7.0).item() == pytest.approx(5)


@settings(deadline=None, max_examples=40)
@given(student=LOGITS, teacher=LOGITS, factor=st.floats(0.1, 10))
def test_mse_grows_with_the_square_of_the_logits(student, teacher, factor):
    student, teacher = torch.from_numpy(student).double(), torch.from_numpy(teacher).double()
    loss = get_loss("mse")(student, teacher, temperature=1.0)
    scaled = get_loss("mse")(factor * student, factor * teacher, temperature=1.0)
    torch.testing.assert_close(scaled, factor**2 * loss)


def test_mse_golden_value():
    assert get_loss("mse")(*golden_logits(), temperature=2.0).item() == pytest.approx(4.75, rel=1e-9)


def test_ntd_by_hand():
    # Without the teacher's first class, teacher (.75, .25) against student (.5, .5) as for kl.
    teacher = torch.tensor([[9.0, np.log(3.0), 0.0]], dtype=torch.float64)
    student = torch.tensor([[-5.0, 1.0, 1.0]], dtype=torch.float64)
    assert get_loss("ntd")(student, teacher, temperature=1.0).item() == pytest.approx(0.130812, abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(student=LOGITS, teacher=LOGITS, value=st.floats(-30, 30))
def test_ntd_ignores_the_logit_of_the_teachers_first_class(student, teacher, value):
    student, teacher = torch.from_numpy(student), torch.from_numpy(teacher)
    changed = student.scatter(1, teacher.argmax(dim=1, keepdim=True), value)
    loss = get_loss("ntd")(student, teacher, temperature=2.0)
    torch.testing.assert_close(get_loss("ntd")(changed, teacher, temperature=2.0), loss)


def test_ntd_golden_value():
    assert get_loss("ntd")(*golden_logits(), temperature=2.0).item() == pytest.approx(
        1.0207779726740638, rel=1e-9
    )


def test_dkd_by_hand():
    # Teacher (.6, .3, .1), student (.4, .3, .3): KL((.6, .4) ‖ (.4, .6)) = .2 ln 1.5 = .081093
    # and KL((.75, .25) ‖ (.5, .5)) = .130812, which weighs twice.
    teacher = torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64).log()
    student = torch.tensor([[0.4, 0.3, 0.3]], dtype=torch.float64).log()
    loss = get_loss("dkd")(student, teacher, temperature=1.0)
    assert loss.item() == pytest.approx(0.081093 + 2 * 0.130812, abs=1e-5)


@settings(deadline=None, max_examples=40)
@given(
    student=hnp.arrays(np.float64, (1, 4), elements=st.floats(-30, 30)),
    teacher=hnp.arrays(np.float64, (1, 4), elements=st.floats(-30, 30)),
    temperature=st.floats(0.5, 20),
)
def test_dkd_is_kl_where_the_other_classes_weigh_their_probability(student, teacher, temperature):
    student, teacher = torch.from_numpy(student), torch.from_numpy(teacher)
    rest = 1 - (teacher / temperature).softmax(dim=1).max().item()
    decoupled = decoupled_divergence(student, teacher, temperature=temperature, alpha=1.0, beta=rest)
    torch.testing.assert_close(decoupled, get_loss("kl")(student, teacher, temperature=temperature))


def test_dkd_golden_value():
    assert get_loss("dkd")(*golden_logits(), temperature=2.0).item() == pytest.approx(
        2.295607805673055, rel=1e-9
    )


@needs_other_classes
def test_losses_of_the_other_classes_refuse_two(name):
    with pytest.raises(ConfigError, match=f"distill.loss '{name}' .* needs 3 or more, got 2; use 'kl'"):
        get_loss(name)(torch.zeros(4, 2), torch.zeros(4, 2), temperature=1.0)


def test_dist_by_hand():
    # Rows (.6, .3, .1) against (.4, .4, .2): centred (8, −1, −7) and (2, 2, −4) thirtieths, so
    # Pearson = 42 / √(114 · 24) = .80296. One sample has no columns to relate.
    teacher = torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64).log()
    student = torch.tensor([[0.4, 0.4, 0.2]], dtype=torch.float64).log()
    loss = get_loss("dist")(student, teacher, temperature=1.0)
    assert loss.item() == pytest.approx(1 - 42 / np.sqrt(114 * 24), abs=1e-9)


def test_dist_counts_columns_beside_rows():
    # Two classes: the rows agree in direction (0 each), the columns go opposite ways (2 each).
    teacher = torch.tensor([[0.9, 0.1], [0.7, 0.3]], dtype=torch.float64).log()
    student = torch.tensor([[0.6, 0.4], [0.8, 0.2]], dtype=torch.float64).log()
    assert get_loss("dist")(student, teacher, temperature=1.0).item() == pytest.approx(2)


@settings(deadline=None, max_examples=40)
@given(student=LOGITS, teacher=LOGITS, temperature=st.floats(0.5, 20))
def test_dist_is_four_at_most(student, teacher, temperature):
    loss = get_loss("dist")(torch.from_numpy(student), torch.from_numpy(teacher), temperature=temperature)
    assert loss.item() <= 4 + 1e-5


def test_dist_golden_value():
    assert get_loss("dist")(*golden_logits(), temperature=2.0).item() == pytest.approx(
        0.7014310142993877, rel=1e-9
    )


def test_standardised_by_hand():
    # Any two logits standardise to (1, −1); with τ = 2 / ln 3 the soft labels are (.75, .25).
    teacher = torch.tensor([[5.0, 3.0]], dtype=torch.float64)
    student = torch.zeros(1, 2, dtype=torch.float64)
    temperature = 2 / np.log(3.0)
    loss = get_loss("standardised")(student, teacher, temperature=temperature)
    assert loss.item() == pytest.approx(temperature**2 * 0.130812, abs=1e-5)


@settings(deadline=None, max_examples=40)
@given(student=LOGITS, factor=st.floats(0.5, 100), shift=st.floats(-50, 50))
def test_standardised_sees_neither_scale_nor_offset(student, factor, shift):
    student, teacher = torch.from_numpy(student).double(), draw_logits(1, (3, 4)).double()
    assume((student.std(dim=1) > 0.01).all())
    loss = get_loss("standardised")(student, teacher, temperature=2.0)
    moved = get_loss("standardised")(factor * student + shift, teacher, temperature=2.0)
    torch.testing.assert_close(moved, loss)


def test_standardised_golden_value():
    assert get_loss("standardised")(*golden_logits(), temperature=2.0).item() == pytest.approx(
        0.26520430405732975, rel=1e-9
    )


def test_unknown_loss_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"unknown distill.loss 'kll'; did you mean 'kl'\? Known: .*kl"):
        get_loss("kll")
