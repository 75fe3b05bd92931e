"""What colluding nodes can do to an ensemble, and what they cannot."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedstill.server.aggregators import AggregatorOptions, get_aggregator
from fedstill.server.aggregators.admission import MAX_LOGIT
from tests.server.aggregators.ensembles import softmax

ROBUST = ["cronus", "geometric_median", "median", "trimmed_mean"]
every_robust = pytest.mark.parametrize("name", ROBUST)

# Eight honest nodes agree on class 1: their least certain gives it .71.
HONEST = hnp.arrays(np.float32, (8, 2, 4), elements=st.floats(-1, 1, width=32)).map(
    lambda noise: noise + 4 * np.eye(4, dtype=np.float32)[1]
)
SUBTLE, GROSS = (
    hnp.arrays(np.float32, (2, 2, 4), elements=st.floats(-size, size, width=32)) for size in (10, MAX_LOGIT)
)
COLLUDING = SUBTLE | GROSS | SUBTLE.map(lambda rows: rows[[0, 0]]) | GROSS.map(lambda rows: rows[[0, 0]])


def aggregate(name, logits):
    present = np.ones(logits.shape[:2], bool)
    return get_aggregator(name)(logits, present_NS=present, options=AggregatorOptions()).logits_SC


def measure_shift(name, honest, colluding):
    """Measures how far soft labels move from the honest mean, in spreads of the honest."""
    moved = softmax(aggregate(name, np.concatenate([colluding, honest]))) - softmax(honest).mean(axis=0)
    spread = np.ptp(softmax(honest), axis=0).sum(axis=-1)
    return np.linalg.norm(moved, axis=-1) / (spread + 1e-4)


def agree_on_class_1(name, honest, colluding):
    return (aggregate(name, np.concatenate([honest, colluding])).argmax(axis=1) == 1).all()


@every_robust
@settings(deadline=None, max_examples=80)
@given(honest=HONEST, colluding=COLLUDING)
def test_a_fifth_of_the_nodes_cannot_turn_what_the_others_agree_on(name, honest, colluding):
    assert agree_on_class_1(name, honest, colluding)


@every_robust
@settings(deadline=None, max_examples=80)
@given(honest=HONEST, colluding=COLLUDING)
def test_a_fifth_of_the_nodes_moves_soft_labels_within_the_honest_spread(name, honest, colluding):
    assert measure_shift(name, honest, colluding).max() <= 1


@every_robust
@settings(deadline=None, max_examples=25)
@given(colluding=COLLUDING)
def test_a_fifth_of_the_nodes_moves_nothing_where_the_others_are_of_one_mind(name, colluding):
    honest = np.full((8, 2, 4), [0, 2, 1, -1], np.float32)
    np.testing.assert_allclose(
        softmax(aggregate(name, np.concatenate([colluding, honest]))), softmax(honest[0]), atol=1e-4
    )


def attack():
    honest = np.random.default_rng(0).uniform(-1, 1, (8, 2, 4)).astype(np.float32)
    colluding = np.zeros((2, 2, 4), np.float32)
    colluding[..., 3] = MAX_LOGIT
    return honest + 4 * np.eye(4, dtype=np.float32)[1], colluding


def test_the_mean_of_logits_is_turned_by_two_nodes_of_ten():
    assert not agree_on_class_1("mean", *attack())


@pytest.mark.parametrize("name", ["mean", "variance"])
def test_means_of_logits_are_moved_beyond_the_honest_spread(name):
    assert measure_shift(name, *attack()).min() > 1


def test_the_mean_of_probabilities_is_moved_by_a_fifth_at_most():
    honest, colluding = attack()
    moved = softmax(aggregate("mean_probability", np.concatenate([honest, colluding])))
    shift = np.abs(moved - softmax(honest).mean(axis=0))
    assert 0.15 < shift.max() <= 0.2


@every_robust
def test_a_fifth_of_twenty_nodes_that_vote_for_one_class_is_outvoted(name):
    rng = np.random.default_rng(0)
    true = rng.integers(0, 10, 200)
    honest = (rng.normal(size=(16, 200, 10)) + 5 * np.eye(10)[true]).astype(np.float32)
    colluding = np.tile(20 * np.eye(10, dtype=np.float32)[(true + 1) % 10], (4, 1, 1))
    voted = aggregate(name, np.concatenate([honest, colluding])).argmax(axis=1)
    np.testing.assert_array_equal(voted, true)


@every_robust
def test_more_than_half_colluding_nodes_win(name):
    honest, colluding = attack()
    assert not agree_on_class_1(name, honest[:3], colluding.repeat(4, axis=0))
