"""What the spread over seeds allows to be said: means, sample deviations, paired t-intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

# Upper 2.5 % points of Student's t for 1 to 30 degrees of freedom, from the usual tables.
_T_975 = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
    2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip


@dataclass(frozen=True)
class PairedDifference:
    """The mean of paired differences and its 95 % interval; no interval from a single pair."""

    mean: float
    low: float | None
    high: float | None
    num_pairs: int


def t_quantile(degrees: int) -> float:
    """Returns the two-sided 95 % quantile of Student's t.

    Args:
        degrees: Degrees of freedom, 1 or more.

    Returns:
        The quantile: tabulated up to 30, beyond that by its expansion around the
        normal quantile, exact to four decimals.

    Reference:
        Abramowitz and Stegun 1964, 26.7.5.
    """
    assert degrees >= 1
    if degrees <= len(_T_975):
        return _T_975[degrees - 1]
    z = statistics.NormalDist().inv_cdf(0.975)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / degrees + second / degrees**2


def sample_deviation(values: Sequence[float]) -> float | None:
    """Returns the sample standard deviation (n − 1); None for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def pair_difference(first: Sequence[float], second: Sequence[float]) -> PairedDifference:
    """Estimates how much one thing lies above another, seed by seed.

    Two schemes of one seed share partitions, data and initial students, so what that
    seed does to both cancels out.

    Args:
        first: One value per seed.
        second: The other's values, of the same seeds in the same order; one or more.

    Returns:
        The mean of first − second with its 95 % t-interval.

    Reference:
        Student 1908, "The probable error of a mean". Each interval stands by itself:
        they are not widened for the number of comparisons.
    """
    differences = [mine - other for mine, other in zip(first, second, strict=True)]
    mean = statistics.fmean(differences)
    num_pairs = len(differences)
    if num_pairs < 2:
        return PairedDifference(mean, None, None, num_pairs)
    half = t_quantile(num_pairs - 1) * statistics.stdev(differences) / math.sqrt(num_pairs)
    return PairedDifference(mean, mean - half, mean + half, num_pairs)
