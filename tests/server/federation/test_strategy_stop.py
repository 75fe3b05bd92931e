"""A run stops where its students are near the teacher beyond doubt, and goes on otherwise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedstill.server.exchange.publication import Publication
from fedstill.server.run.records import ConclusionRecord
from fedstill.server.schemes import Contribution
from tests.server.answering import NUM_SAMPLES, answering_app, contribute, federate


def teacher_right_on(*samples: int) -> np.ndarray:
    return np.isin(np.arange(NUM_SAMPLES), samples)


def test_it_stops_when_students_are_near_the_teacher() -> None:
    hits_S = teacher_right_on(*range(8))
    strategy, grid, _ = federate(
        answering_app(num_correct=8), "federation.target_gap=0.05", teacher_hits_S=hits_S
    )
    strategy.start(grid)
    assert strategy.state.round == 1
    assert "within 0.05 of the teacher" in strategy.state.stopped_because


def test_it_goes_on_while_students_are_far_from_the_teacher() -> None:
    hits_S = teacher_right_on(*range(NUM_SAMPLES))
    strategy, grid, _ = federate(
        answering_app(num_correct=8), "federation.target_gap=0.05", teacher_hits_S=hits_S
    )
    strategy.start(grid)
    assert strategy.state.round == 2


def test_it_goes_on_where_students_may_be_near_by_luck_alone() -> None:
    # As often right as the teacher, but on other samples: .2 of them differ, so the error is large.
    hits_S = teacher_right_on(*range(7), NUM_SAMPLES - 1)
    strategy, grid, _ = federate(
        answering_app(num_correct=8), "federation.target_gap=0.05", teacher_hits_S=hits_S
    )
    strategy.start(grid)
    assert strategy.state.round == 2
    assert strategy.state.rounds[-1].gap == pytest.approx(0)


def test_it_goes_on_where_the_teacher_has_left_its_students_behind() -> None:
    strategy, grid, _ = federate(
        answering_app(num_correct=8), "federation.target_gap=0.05", teacher_hits_S=teacher_right_on(*range(8))
    )

    def conclude(
        round_number: int, contributions: list[Contribution]
    ) -> tuple[Publication, ConclusionRecord]:
        strategy.federation.truth = replace(
            strategy.federation.truth, teacher_hits_S=teacher_right_on(*range(NUM_SAMPLES))
        )
        return strategy.federation.publication, ConclusionRecord()

    strategy.close_the_loop(contribute, conclude)
    strategy.start(grid)
    assert strategy.state.round == 2
