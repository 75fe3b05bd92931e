"""Who is best in a column, said only where the seeds' spread allows it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from fedstill.server.compare.columns import Column
from fedstill.server.compare.records import Margin, Verdict
from fedstill.server.compare.statistics import pair_difference

Values = Mapping[str, Mapping[int, float]]
"""Of one column: the finished runs' values by cell and seed."""


def judge(name: str, column: Column, values: Values, *, partitions: int) -> Verdict | None:
    """Compares the cell with the best mean with every other, seed by seed.

    Args:
        name: The column's name.
        column: The column; it says which way is better.
        values: Its values by cell and seed.
        partitions: The number that the cells share.

    Returns:
        The verdict: a best cell, where the interval of every paired difference lies on
        the good side; otherwise the leader and those that it does not beat. None for
        a column that is not judged, or where there are not two cells to compare.
    """
    found = {cell: by_seed for cell, by_seed in values.items() if by_seed}
    if column.better is None or len(found) < 2:
        return None
    sign = 1.0 if column.better == "higher" else -1.0
    means = {cell: statistics.fmean(by_seed.values()) for cell, by_seed in found.items()}
    leader = max(means, key=lambda cell: sign * means[cell])
    margins = [_margin(cell, found[leader], found[cell]) for cell in found if cell != leader]
    known = [margin for margin in margins if margin is not None]
    unknown = [margin.cell for margin in known if margin.low is None]
    unknown += [cell for cell in found if cell != leader and cell not in {margin.cell for margin in known}]
    best, tied, reason = None, [], ""
    if unknown:
        reason = (
            f"{leader} and {', '.join(unknown)} have fewer than two finished seeds in common, so there is no"
            " spread to judge by"
        )
    else:
        tied = [margin.cell for margin in known if not _is_beaten(margin, sign)]
        best = None if tied else leader
        tied = [leader, *tied] if tied else []
    return Verdict(
        column=name, partitions=partitions, leader=leader, best=best, tied=tied, reason=reason, margins=known
    )


def _margin(cell: str, leader: Mapping[int, float], other: Mapping[int, float]) -> Margin | None:
    seeds = sorted(leader.keys() & other.keys())
    if not seeds:
        return None
    found = pair_difference([leader[seed] for seed in seeds], [other[seed] for seed in seeds])
    return Margin(cell=cell, mean=found.mean, low=found.low, high=found.high, num_seeds=found.num_pairs)


def _is_beaten(margin: Margin, sign: float) -> bool:
    assert margin.low is not None
    assert margin.high is not None
    return margin.low > 0 if sign > 0 else margin.high < 0
