"""The contract that every loss of features passes through, and the cases of each."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedstill.common.losses import FEATURE_LOSSES, LOSSES, get_loss
from fedstill.common.losses.attention import attention_map

every_loss = pytest.mark.parametrize("name", sorted(FEATURE_LOSSES))
# Maps are sums of squares.
FEATURES = hnp.arrays(np.float32, (3, 4), elements=st.floats(0, 100, width=32))


def draw_features(seed, shape=(6, 5)):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 3


def golden_features():
    numbers = torch.arange(12, dtype=torch.float64).reshape(3, 4)
    return numbers * 7 % 5, numbers * 3 % 7


@every_loss
def test_loss_is_a_scalar_and_equal_features_cost_nothing(name):
    loss = FEATURE_LOSSES[name](draw_features(0), draw_features(0))
    assert loss.shape == ()
    assert loss.item() == pytest.approx(0, abs=1e-6)


@every_loss
def test_different_features_cost_something(name):
    assert FEATURE_LOSSES[name](draw_features(0), draw_features(1)).item() > 0.01


@every_loss
def test_gradient_reaches_the_student_only(name):
    student, teacher = draw_features(0).requires_grad_(), draw_features(1).requires_grad_()
    FEATURE_LOSSES[name](student, teacher).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


@every_loss
def test_order_of_samples_and_of_features_does_not_matter(name):
    student, teacher = draw_features(0), draw_features(1)
    loss = FEATURE_LOSSES[name](student, teacher)
    for axis in (0, 1):
        turned = FEATURE_LOSSES[name](student.flip(axis), teacher.flip(axis))
        torch.testing.assert_close(turned, loss)


@every_loss
def test_loss_is_a_mean_over_samples(name):
    student, teacher = draw_features(0), draw_features(1)
    twice = FEATURE_LOSSES[name](student.repeat(2, 1), teacher.repeat(2, 1))
    torch.testing.assert_close(twice, FEATURE_LOSSES[name](student, teacher))


@every_loss
def test_a_step_down_the_gradient_lowers_the_loss(name):
    student, teacher = draw_features(0).requires_grad_(), draw_features(1)
    before = FEATURE_LOSSES[name](student, teacher)
    before.backward()
    assert FEATURE_LOSSES[name](student.detach() - 0.1 * student.grad, teacher) < before


@every_loss
@pytest.mark.parametrize(("mine", "theirs"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0), (1e30, 1.0), (1.0, 1e30)])
def test_loss_and_gradient_stay_finite(name, mine, theirs):
    student = torch.full((2, 4), mine, requires_grad=True)
    loss = FEATURE_LOSSES[name](student, torch.full((2, 4), theirs))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


@every_loss
@settings(deadline=None, max_examples=40)
@given(student=FEATURES, teacher=FEATURES)
def test_loss_is_never_negative(name, student, teacher):
    assert FEATURE_LOSSES[name](torch.from_numpy(student), torch.from_numpy(teacher)).item() >= 0


@every_loss
def test_logits_are_compared_by_kl_beside_features(name):
    assert get_loss(name) is LOSSES["kl"]


def test_hint_by_hand():
    # (1 + 4) / 2 and (9 + 0) / 2; their mean is 3.5.
    student = torch.tensor([[1.0, 2.0], [3.0, 1.0]])
    teacher = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    assert FEATURE_LOSSES["hint"](student, teacher).item() == pytest.approx(3.5)


@settings(deadline=None, max_examples=40)
@given(student=FEATURES, teacher=FEATURES, factor=st.floats(0.1, 10))
def test_hint_grows_with_the_square_of_the_features(student, teacher, factor):
    student, teacher = torch.from_numpy(student).double(), torch.from_numpy(teacher).double()
    loss = FEATURE_LOSSES["hint"](student, teacher)
    torch.testing.assert_close(FEATURE_LOSSES["hint"](factor * student, factor * teacher), factor**2 * loss)


def test_hint_golden_value():
    assert FEATURE_LOSSES["hint"](*golden_features()).item() == pytest.approx(4.75, rel=1e-9)


def test_attention_by_hand():
    # (3, 4)/5 against (1, 0): .4² + .8² = .8; the second sample looks at the same place twice as hard.
    student = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    teacher = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert FEATURE_LOSSES["attention"](student, teacher).item() == pytest.approx(0.4)


@settings(deadline=None, max_examples=40)
@given(student=FEATURES, teacher=FEATURES, factor=st.floats(0.1, 10))
def test_attention_sees_no_scale_and_is_two_at_most(student, teacher, factor):
    student, teacher = torch.from_numpy(student).double(), torch.from_numpy(teacher).double()
    brightest = student.amax(dim=1)
    assume(((brightest == 0) | (brightest > 1e-25)).all())  # fainter maps count as nothing
    loss = FEATURE_LOSSES["attention"](student, teacher)
    torch.testing.assert_close(FEATURE_LOSSES["attention"](factor * student, teacher), loss)
    assert loss <= 2 + 1e-9


def test_attention_golden_value():
    loss = FEATURE_LOSSES["attention"](*golden_features())
    assert loss.item() == pytest.approx(0.25352058077067985, rel=1e-9)


def test_attention_map_sums_the_squares_of_the_channels():
    activations = torch.tensor([[[1.0, -2.0], [3.0, 0.0]]])
    assert attention_map(activations).tolist() == [[10.0, 4.0]]
