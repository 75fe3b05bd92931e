"""What validation samples and probes say together, counted by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fedstill.clients.distil import SoftLabels
from fedstill.clients.private import LabelledSamples
from fedstill.clients.schemes.evidence import Evidence

FOUR = np.zeros((4, 3), np.float32)


def make_evidence(num_validation: int, *, num_shrink: int) -> Evidence:
    return Evidence(
        validation=LabelledSamples(np.zeros((num_validation, 3)), np.zeros(num_validation, np.int64)),
        probes=SoftLabels(FOUR, FOUR),
        classes_P=np.zeros(4, np.int64),
        weights_P=np.array([0.1, 0.2, 0.3, 0.4]),
        frequencies_C=np.array([0.5, 0.25, 0.25]),
        num_shrink=num_shrink,
    )


def test_probes_count_as_some_validation_samples():
    evidence = make_evidence(2, num_shrink=6)
    # (1 of 2 right + 6 · (.1 + .4)) / 8
    assert evidence.accuracy(np.array([1, 0, 1, 0, 0, 1])) == pytest.approx(0.5)


@pytest.mark.parametrize("num_probes", range(1, 60))
def test_all_right_is_an_accuracy_of_one_at_most(num_probes: int) -> None:
    weights = np.arange(1.0, num_probes + 1)
    evidence = dataclasses.replace(make_evidence(3, num_shrink=100), weights_P=weights / weights.sum())
    accuracy = evidence.accuracy(np.ones(3 + num_probes, bool))
    assert accuracy == pytest.approx(1.0)
    assert accuracy <= 1.0


def test_gap_and_its_error_are_of_pairs():
    evidence = make_evidence(2, num_shrink=2)
    floor, hits = np.array([1, 1, 1, 1, 0, 1], bool), np.array([1, 0, 0, 1, 1, 1], bool)
    # Gaps 0 and 1 at weight ¼ each, 1, 0, −1 and 0 at ½ · (.1, .2, .3, .4): mean .25 + .05 − .15 = .15,
    # of the squares .25 + .05 + .15 = .45, so the error is √((.45 − .0225) / 4).
    mean, error = evidence.compare(floor, hits)
    assert (mean, error) == (pytest.approx(0.15), pytest.approx(np.sqrt(0.4275 / 4)))


def test_equal_answers_leave_no_gap_and_no_error():
    hits = np.array([1, 0, 1, 1, 0, 1], bool)
    assert make_evidence(2, num_shrink=2).compare(hits, hits) == (0.0, 0.0)


def test_probes_that_foretell_another_accuracy_count_for_nothing():
    right, wrong = np.ones(4, bool), np.zeros(9, bool)
    assert make_evidence(9, num_shrink=100).weigh(np.append(wrong, right)).num_shrink == 0


def test_probes_that_a_dozen_samples_cannot_contradict_stay():
    own = np.array([1, 1, 1, 1, 1, 1, 1, 0, 0], bool)
    probes = np.array([0, 1, 1, 1], bool)  # .9 foretold, 7 of 9 seen
    assert make_evidence(9, num_shrink=100).weigh(np.append(own, probes)).num_shrink == 100


def test_a_shift_favours_frequent_classes_by_their_frequency():
    evidence = make_evidence(0, num_shrink=1)
    np.testing.assert_allclose(evidence.shift(1.0), 0.0)
    # log(.5 + .5 · 3 · frequency)
    np.testing.assert_allclose(evidence.shift(0.5), np.log([1.25, 0.875, 0.875]), rtol=1e-6)
