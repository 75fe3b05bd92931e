"""Entropy and divergence of soft labels, against cases computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedstill.server.figures.labels import measure_divergence, measure_entropy


def test_entropy_of_even_and_of_certain_labels() -> None:
    logits_SC = np.array([[0.0, 0.0], [1000.0, 0.0]], np.float32)

    assert measure_entropy(logits_SC, temperature=1.0) == pytest.approx(math.log(2) / 2)


def test_temperature_softens() -> None:
    logits_SC = np.array([[math.log(9.0), 0.0]])

    at_one, at_two = (measure_entropy(logits_SC, temperature=value) for value in (1.0, 2.0))

    assert at_one == pytest.approx(-0.9 * math.log(0.9) - 0.1 * math.log(0.1))
    assert at_two == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))


def test_divergence_of_two_coins() -> None:
    p_SC, q_SC = np.array([[math.log(9.0), 0.0]]), np.zeros((1, 2))

    found = measure_divergence(p_SC, q_SC, temperature=1.0)

    assert found == pytest.approx(0.9 * math.log(1.8) + 0.1 * math.log(0.2))
    assert measure_divergence(p_SC, p_SC, temperature=1.0) == 0
