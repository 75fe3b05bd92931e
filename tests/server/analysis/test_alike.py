"""Alikeness of models: computed by hand, and what must hold whatever the numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedstill.server.analysis.alike import (
    divide_sample,
    linear_cka,
    occlusion_saliency,
    saliency_agreement,
)

MAPS = hnp.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 30)), elements=st.integers(-9, 9))


def features(rows: int, columns: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns))


def test_cka_of_a_hand_computed_case() -> None:
    # Centred: x = (-1, 0, 1), y = (1, -2, 1) and (-1, 0, 1) as second column.
    # ‖yᵀx‖² = 0² + 2² = 4; ‖xᵀx‖ = 2; yᵀy = diag(6, 2), its norm √40.
    first_SD = np.array([[0.0], [1.0], [2.0]])
    second_SE = np.array([[4.0, 0.0], [1.0, 1.0], [4.0, 2.0]])

    assert linear_cka(first_SD, second_SE) == pytest.approx(4 / (2 * math.sqrt(40)))


@given(st.integers(0, 1000), st.integers(2, 30), st.floats(1e-6, 1e6))
def test_cka_ignores_rotation_shift_and_size(seed: int, rows: int, factor: float) -> None:
    first_SD = features(rows, 4, seed)
    rotation, _ = np.linalg.qr(features(4, 4, seed + 1))

    assert linear_cka(first_SD, factor * first_SD @ rotation + 3) == pytest.approx(1, abs=1e-6)


@given(st.integers(0, 1000))
def test_cka_is_symmetric_and_a_ratio(seed: int) -> None:
    first_SD, second_SE = features(20, 3, seed), features(20, 7, seed + 1)

    similarity = linear_cka(first_SD, second_SE)

    assert 0 <= similarity <= 1
    assert similarity == pytest.approx(linear_cka(second_SE, first_SD))


def test_features_that_never_change_have_no_similarity() -> None:
    assert math.isnan(linear_cka(np.full((5, 2), 0.1, np.float32), features(5, 2, 0)))


def test_saliency_agreement_of_a_hand_computed_case() -> None:
    # Twenty places: the top decile is two. Sample 0 shares one of them, sample 1 both, with opposite signs.
    first_SP, second_SP = np.zeros((2, 20)), np.zeros((2, 20))
    first_SP[0, [0, 1]], second_SP[0, [0, 2]] = [3, 2], [3, 2]
    first_SP[1, [4, 5]], second_SP[1, [4, 5]] = [1, -1], [-1, 1]

    agreement = saliency_agreement(first_SP, second_SP)

    assert agreement.cosine == pytest.approx((9 / 13 - 1) / 2)
    assert agreement.overlap == pytest.approx((1 / 2 + 1) / 2)


@given(MAPS)
def test_a_map_agrees_with_itself_and_one_of_zeros_with_none(map_SP: np.ndarray) -> None:
    itself = saliency_agreement(map_SP, 2 * map_SP)
    nothing = saliency_agreement(map_SP, np.zeros_like(map_SP))

    assert itself.cosine == pytest.approx(np.mean(map_SP.any(axis=1)))
    assert 0 <= itself.overlap <= 1
    assert (nothing.cosine, nothing.overlap) == (0, 0)


@pytest.mark.parametrize(
    ("shape", "layout", "num_cells"),
    [
        ((8, 8), "HW", 64),
        ((28, 28, 3), "HWC", 64),
        ((3, 5, 4), "CHW", 20),
        ((187,), "T", 64),
        ((50, 3), "TC", 50),
        ((13,), "F", 13),
        ((700,), "F", 64),
    ],
)
def test_cells_cover_a_sample_and_are_few(shape: tuple[int, ...], layout: str, num_cells: int) -> None:
    cells = divide_sample(shape, layout)

    assert cells.shape == shape
    assert np.unique(cells).tolist() == list(range(num_cells))


def test_channels_of_one_place_share_a_cell() -> None:
    cells = divide_sample((4, 4, 3), "HWC")

    assert (cells == cells[:, :, :1]).all()


def test_occlusion_of_a_linear_model_gives_weight_times_value() -> None:
    weights = np.array([[1.0, -1.0], [0.0, 0.0], [2.0, -2.0]])  # each row's mean over classes is 0
    x_S = np.array([[5, 7, 3], [1, 2, 0]], np.int16)

    saliency_SP = occlusion_saliency(
        lambda x: x @ weights,
        x_S,
        np.array([0, 1]),
        cells=divide_sample((3,), "F"),
        blank=np.array(1, np.int16),
    )

    assert saliency_SP.tolist() == [[4, 0, 4], [0, 0, 2]]
