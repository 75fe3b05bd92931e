"""Means, deviations and paired intervals, against hand and against SciPy."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedstill.server.compare.statistics import pair_difference, sample_deviation, t_quantile


@pytest.mark.parametrize("degrees", [1, 2, 5, 29, 30, 31, 60, 1000])
def test_t_quantile_is_that_of_the_distribution(degrees: int) -> None:
    assert t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=1e-4)


def test_whole_table_is_that_of_the_distribution() -> None:
    assert [t_quantile(degrees) for degrees in range(1, 31)] == pytest.approx(
        [stats.t.ppf(0.975, degrees) for degrees in range(1, 31)], abs=6e-5
    )


def test_sample_deviation_divides_by_one_less() -> None:
    # Deviations from 4 are −2, 0, 2: (4 + 0 + 4) / 2 = 4.
    assert sample_deviation([2.0, 4.0, 6.0]) == pytest.approx(2.0)


def test_one_value_has_no_deviation() -> None:
    assert sample_deviation([2.0]) is None


def test_paired_interval_by_hand() -> None:
    # Differences .1, .2, .3: mean .2, deviation .1, half width 4.3027 · .1 / √3 = .24842.
    found = pair_difference([0.6, 0.8, 1.0], [0.5, 0.6, 0.7])

    assert found.mean == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.2 - 0.24842, 0.2 + 0.24842), abs=1e-5)
    assert found.num_pairs == 3


def test_paired_interval_of_two_seeds_by_hand() -> None:
    # Differences .1 and .2: deviation .1/√2, half width 12.7062 · (.1/√2) / √2 = .63531.
    found = pair_difference([0.5, 0.6], [0.4, 0.4])

    assert (found.low, found.high) == pytest.approx((0.15 - 0.63531, 0.15 + 0.63531), abs=1e-5)


def test_one_pair_has_no_interval() -> None:
    found = pair_difference([0.9], [0.1])

    assert (found.mean, found.low, found.high) == (pytest.approx(0.8), None, None)


def test_what_a_seed_does_to_both_cancels_out() -> None:
    # Each on its own varies by .4; the difference is .1 in each seed.
    found = pair_difference([0.5, 0.9, 0.7], [0.4, 0.8, 0.6])

    assert found.low == pytest.approx(0.1)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=40))
def test_interval_holds_its_mean_and_turns_round_with_its_arguments(pairs: list[tuple[float, float]]) -> None:
    first, second = zip(*pairs, strict=True)
    there, back = pair_difference(first, second), pair_difference(second, first)
    assert there.low is not None
    assert there.high is not None
    assert back.low is not None

    assert there.low <= there.mean <= there.high
    assert math.isclose(there.high, -back.low, abs_tol=1e-9)
