from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedstill.server.figures.scoring import (
    calibration_error,
    chance_agreement,
    describe_compression,
    measure_accuracy,
    recall_by_class,
    write_predictions,
)


def test_accuracy_counts_matches() -> None:
    assert measure_accuracy(np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2])) == 0.75


def test_calibration_error_of_a_hand_computed_case() -> None:
    # Bins of 0.5: one holds {0.4 right, 0.2 wrong}, the other {0.9 right, 0.7 right}.
    predicted, true = np.array([0, 0, 0, 0]), np.array([0, 1, 0, 0])
    confidence = np.array([0.4, 0.2, 0.9, 0.7])
    expected = 0.5 * abs(0.5 - 0.3) + 0.5 * abs(1.0 - 0.8)
    assert calibration_error(predicted, confidence, true, num_bins=2) == pytest.approx(expected)


def test_calibration_error_is_zero_for_certain_and_right() -> None:
    classes = np.arange(10)
    assert calibration_error(classes, np.ones(10), classes) == 0


def test_calibration_error_is_that_of_its_definition_bit_for_bit() -> None:
    rng = np.random.default_rng(0)
    predicted, true = rng.integers(0, 3, (2, 500))
    confidence = rng.random(500).astype(np.float32)
    expected = 0.0
    for index in range(15):
        inside = np.clip(np.ceil(confidence * 15).astype(int) - 1, 0, 14) == index
        right = (predicted == true)[inside]
        expected += inside.mean() * abs(right.mean() - confidence[inside].mean())
    assert calibration_error(predicted, confidence, true) == float(expected)


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 4), st.floats(0, 1, allow_nan=False)),
        min_size=1,
        max_size=50,
    )
)
def test_calibration_error_is_a_ratio(rows: list[tuple[int, int, float]]) -> None:
    predicted, true, confidence = (np.array(column) for column in zip(*rows, strict=True))
    assert 0 <= calibration_error(predicted, confidence, true) <= 1


def test_predictions_are_read_back_without_pickle(tmp_path: Path) -> None:
    path = tmp_path / "nodes" / "predictions.npy"
    write_predictions(path, np.array([1, 2]), np.array([0.5, 0.25]), np.array([1, 1]))
    table = np.load(path, allow_pickle=False)
    assert table["class"].tolist() == [1, 2]
    assert table["confidence"].tolist() == [0.5, 0.25]
    assert table["fp32_class"].tolist() == [1, 1]


def test_recall_by_hand():
    true = np.array([0, 0, 0, 1, 1])
    found = recall_by_class(np.array([0, 0, 1, 1, 0]), true, num_classes=3)
    np.testing.assert_allclose(found, [2 / 3, 1 / 2, np.nan])


def test_chance_agreement_by_hand():
    one, other = np.array([0, 0, 0, 1]), np.array([0, 1, 1, 1])
    assert chance_agreement(one, other, num_classes=2) == 0.75 * 0.25 + 0.25 * 0.75


def test_independent_predictors_agree_as_often_as_chance_says():
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 3, 50_000), rng.choice(3, 50_000, p=[0.6, 0.3, 0.1])
    assert abs(measure_accuracy(one, other) - chance_agreement(one, other, num_classes=3)) < 0.01


def test_what_compression_changed_by_hand():
    true = np.array([0, 0, 0, 0, 1, 1])
    dense, compressed = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 1, 0, 1, 0])
    found = describe_compression(compressed, dense, true, num_classes=2)
    assert found == {"num_flipped": 3, "worst_recall": 0.5, "worst_recall_change": -0.5}


def test_compression_that_changes_nothing_flips_nothing():
    classes, true = np.array([0, 1, 2]), np.array([0, 1, 1])
    found = describe_compression(classes, classes, true, num_classes=4)
    assert found["num_flipped"] == 0
    assert found["worst_recall_change"] == 0.0
