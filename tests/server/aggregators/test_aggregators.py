"""The contract that every aggregator of the registry passes through, and its options."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedstill.common.errors import ConfigError
from fedstill.server.aggregators import (
    AGGREGATORS,
    AggregatorOptions,
    aggregator,
    get_aggregator,
    takes_weights,
)
from tests.server.aggregators.ensembles import aggregate, counts_for, draw_logits, every_aggregator, softmax

SHARPENERS = {"era", "enhanced_era"}
every_faithful = pytest.mark.parametrize("name", sorted(set(AGGREGATORS) - SHARPENERS))
LOGITS = hnp.arrays(np.float32, (5, 3, 4), elements=st.floats(-50, 50, width=32))
PRESENT = hnp.arrays(np.bool_, (5, 3))


def test_registry_holds_the_documented_aggregators():
    assert set(AGGREGATORS) == {
        *(
            "mean",
            "mean_probability",
            "era",
            "enhanced_era",
            "confidence",
            "variance",
            "count",
            "class_count",
        ),
        *("median", "trimmed_mean", "geometric_median", "cronus"),
    }


@every_aggregator
def test_result_has_a_row_of_float32_per_sample(name):
    result = aggregate(name, draw_logits(0))
    assert (result.logits_SC.shape, result.logits_SC.dtype) == ((6, 5), np.float32)
    assert (result.covered_S.shape, result.covered_S.dtype) == ((6,), np.bool_)


@every_faithful
def test_a_single_node_gets_its_own_soft_labels_back(name):
    logits = draw_logits(0, (1, 6, 5))
    np.testing.assert_allclose(softmax(aggregate(name, logits).logits_SC), softmax(logits[0]), atol=1e-6)


@pytest.mark.parametrize("name", sorted(SHARPENERS))
def test_a_sharpened_node_keeps_the_order_of_its_classes(name):
    logits = draw_logits(0, (1, 6, 5))
    np.testing.assert_array_equal(aggregate(name, logits).logits_SC.argsort(), logits[0].argsort())


@every_aggregator
def test_nodes_that_agree_give_what_one_of_them_gives(name):
    logits = draw_logits(0, (1, 6, 5))
    alone = aggregate(name, logits).logits_SC
    np.testing.assert_allclose(
        softmax(aggregate(name, logits.repeat(6, axis=0)).logits_SC), softmax(alone), atol=1e-6
    )


@every_aggregator
@pytest.mark.parametrize("size", [1e6, 1e30])
def test_result_is_finite_at_extreme_logits(name, size):
    logits = draw_logits(0, spread=1.0) * np.float32(size)
    logits[0], logits[1, :, 0], logits[2] = 0, size, -size
    result = aggregate(name, logits).logits_SC
    assert np.isfinite(result).all()
    np.testing.assert_allclose(softmax(result).sum(axis=1), 1)


@every_aggregator
def test_nodes_that_are_certain_of_different_classes_give_a_distribution(name):
    result = aggregate(name, 1e6 * np.eye(5)[:, None]).logits_SC
    assert np.isfinite(result).all()
    np.testing.assert_allclose(softmax(result).sum(axis=1), 1)


@every_aggregator
def test_what_stands_in_the_rows_of_absent_nodes_is_ignored(name):
    logits, present = draw_logits(0), np.random.default_rng(1).random((7, 6)) < 0.6
    broken = np.where(present[..., None], logits, np.float32(np.nan))
    np.testing.assert_array_equal(
        aggregate(name, broken, present).logits_SC, aggregate(name, logits, present).logits_SC
    )


@every_aggregator
def test_absent_nodes_are_as_good_as_none(name):
    logits, present = draw_logits(0), np.ones((7, 6), bool)
    present[[1, 4]] = False
    answered = [0, 2, 3, 5, 6]
    counts = np.arange(1, 8)
    with_absent = aggregate(name, logits, present, counts_N=counts).logits_SC
    without = aggregate(name, logits[answered], counts_N=counts[answered]).logits_SC
    np.testing.assert_allclose(with_absent, without, rtol=1e-5, atol=1e-5)


@every_aggregator
def test_samples_do_not_touch_each_other(name):
    logits, present = draw_logits(0), np.random.default_rng(1).random((7, 6)) < 0.7
    together = aggregate(name, logits, present)
    for sample in range(6):
        one = slice(sample, sample + 1)
        alone = aggregate(name, logits[:, one], present[:, one]).logits_SC
        np.testing.assert_allclose(together.logits_SC[one], alone, rtol=1e-5, atol=1e-6)


@every_aggregator
def test_blocks_of_samples_give_what_one_block_gives(name, monkeypatch):
    logits = draw_logits(0, (7, 50, 5))
    whole = aggregate(name, logits).logits_SC
    monkeypatch.setattr(aggregator, "_BLOCK_VALUES", 7 * 5 * 8)
    np.testing.assert_allclose(aggregate(name, logits).logits_SC, whole, rtol=1e-6, atol=1e-6)


@every_aggregator
def test_samples_that_nobody_answered_are_not_covered(name):
    present = np.ones((7, 6), bool)
    present[:, [1, 3]] = False
    result = aggregate(name, draw_logits(0), present)
    np.testing.assert_array_equal(result.covered_S, [True, False, True, False, True, True])
    assert (result.logits_SC[~result.covered_S] == 0).all()


@every_aggregator
def test_no_node_at_all_covers_nothing(name):
    result = aggregate(name, np.zeros((0, 4, 3)), counts_N=np.zeros(0))
    assert not result.covered_S.any()
    assert result.logits_SC.shape == (4, 3)


@every_aggregator
@settings(deadline=None, max_examples=25)
@given(logits=LOGITS, present=PRESENT, order=st.permutations(range(5)))
def test_order_of_the_nodes_does_not_matter(name, logits, present, order):
    counts = np.array([3, 1, 4, 1, 5])
    result = aggregate(name, logits, present, counts_N=counts)
    turned = aggregate(name, logits[order], present[order], counts_N=counts[order])
    np.testing.assert_allclose(softmax(turned.logits_SC), softmax(result.logits_SC), atol=1e-4)


def test_cronus_breaks_ties_by_content_and_not_by_order():
    # Every node is as far out as every other; one of the five has to go.
    certain = 10 * np.eye(5)[:, None]
    result = aggregate("cronus", certain).logits_SC
    np.testing.assert_array_equal(aggregate("cronus", certain[::-1]).logits_SC, result)


@pytest.mark.parametrize("name", ["mean_probability", "confidence", "count", "cronus", "geometric_median"])
@settings(deadline=None, max_examples=25)
@given(logits=LOGITS)
def test_means_of_probabilities_lie_between_the_nodes(name, logits):
    result, nodes = softmax(aggregate(name, logits).logits_SC), softmax(logits)
    assert (result >= nodes.min(axis=0) - 1e-5).all()
    assert (result <= nodes.max(axis=0) + 1e-5).all()


@pytest.mark.parametrize("name", ["mean", "variance"])
@settings(deadline=None, max_examples=25)
@given(logits=LOGITS)
def test_means_of_logits_lie_between_the_nodes(name, logits):
    result = aggregate(name, logits).logits_SC
    assert (result >= logits.min(axis=0) - 1e-4).all()
    assert (result <= logits.max(axis=0) + 1e-4).all()


@pytest.mark.parametrize("name", ["median", "trimmed_mean"])
@settings(deadline=None, max_examples=25)
@given(logits=LOGITS)
def test_means_of_the_middle_keep_a_class_that_all_nodes_rank_first(name, logits):
    logits[..., 2] = 60
    assert (aggregate(name, logits).logits_SC.argmax(axis=1) == 2).all()


@settings(deadline=None, max_examples=25)
@given(logits=LOGITS, exponent=st.floats(1, 8))
def test_enhanced_era_never_lowers_the_largest_probability(logits, exponent):
    mean = softmax(aggregate("mean_probability", logits).logits_SC).max(axis=1)
    sharper = softmax(aggregate("enhanced_era", logits, exponent=exponent).logits_SC).max(axis=1)
    assert (sharper >= mean - 1e-6).all()


@settings(deadline=None, max_examples=25)
@given(logits=LOGITS, temperature=st.floats(0.01, 0.99))
def test_era_holds_every_ratio_of_probabilities_below_the_exponential_of_the_inverse_temperature(
    logits, temperature
):
    result = aggregate("era", logits, temperature=temperature).logits_SC
    assert (result.max(axis=1) - result.min(axis=1) <= (1 + 1e-5) / temperature).all()


def test_class_count_needs_counts_of_classes():
    with pytest.raises(ConfigError, match=r"needs sample counts of shape \(7, 5\), got none"):
        aggregate("class_count", draw_logits(0), counts_N=None)


def test_unknown_aggregator_names_the_known_ones():
    with pytest.raises(ConfigError, match="unknown aggregator 'medan'; did you mean 'median'"):
        get_aggregator("medan")


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": 1.0},
        {"exponent": 0.0},
        {"exponent": float("inf")},
        {"trim_ratio": -0.1},
        {"trim_ratio": 0.5},
        {"counts_N": np.array([1, -1])},
        {"counts_NC": np.array([[np.nan, 1]])},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match=r"must"):
        AggregatorOptions(**options)


def test_count_without_counts_is_refused():
    with pytest.raises(ConfigError, match=r"needs sample counts of shape \(7,\), got none"):
        aggregate("count", draw_logits(0), counts_N=None)


def test_counts_of_other_nodes_are_refused():
    with pytest.raises(ConfigError, match=r"of shape \(7, 5\), got shape \(7, 4\)"):
        aggregate("count", draw_logits(0), counts_NC=np.ones((7, 4)))


def spread_logits(seed, num_nodes=3):
    return np.random.default_rng(seed).normal(0, 3, (num_nodes, 7, 4)).astype(np.float32)


@pytest.mark.parametrize("name", sorted(filter(takes_weights, AGGREGATORS)))
def test_a_node_of_weight_2_counts_as_two_nodes(name):
    logits = spread_logits(1)
    counts = np.ones(3)
    weighted = AGGREGATORS[name](
        logits,
        present_NS=np.ones((3, 7), bool),
        options=AggregatorOptions(
            **counts_for(name, counts, num_classes=4), weights_N=np.array([1.0, 2.0, 1.0])
        ),
    )
    doubled = AGGREGATORS[name](
        logits[[0, 1, 1, 2]],
        present_NS=np.ones((4, 7), bool),
        options=AggregatorOptions(**counts_for(name, np.ones(4), num_classes=4)),
    )
    np.testing.assert_allclose(weighted.logits_SC, doubled.logits_SC, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(AGGREGATORS))
def test_equal_weights_change_nothing(name):
    logits, present = spread_logits(2), np.ones((3, 7), bool)
    counts = counts_for(name, np.ones(3), num_classes=4)
    plain = AGGREGATORS[name](logits, present_NS=present, options=AggregatorOptions(**counts))
    options = AggregatorOptions(**counts, weights_N=np.full(3, 0.25))
    weighted = AGGREGATORS[name](logits, present_NS=present, options=options)
    np.testing.assert_allclose(weighted.logits_SC, plain.logits_SC, rtol=1e-5, atol=1e-5)
