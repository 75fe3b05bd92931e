"""The contract that every aggregator of the registry passes through, and the cases of each."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.errors import ConfigError
from server.aggregators import AGGREGATORS, TAKES_WEIGHTS, AggregatorOptions, aggregator, get_aggregator

every_aggregator = pytest.mark.parametrize("name", sorted(AGGREGATORS))
SHARPENERS = {"era", "enhanced_era"}
every_faithful = pytest.mark.parametrize("name", sorted(set(AGGREGATORS) - SHARPENERS))
LOGITS = hnp.arrays(np.float32, (5, 3, 4), elements=st.floats(-50, 50, width=32))
PRESENT = hnp.arrays(np.bool_, (5, 3))


def draw_logits(seed, shape=(7, 6, 5), spread=3.0):
    return (np.random.default_rng(seed).normal(size=shape) * spread).astype(np.float32)


def softmax(logits):
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def aggregate(name, logits, present=None, **options):
    logits = np.asarray(logits, np.float32)
    present = np.ones(logits.shape[:2], bool) if present is None else present
    if "counts_NC" not in options:
        counts_N = options.pop("counts_N", np.arange(1, len(logits) + 1))
        options |= counts_for(name, counts_N, num_classes=logits.shape[2])
    return get_aggregator(name)(logits, present_NS=present, options=AggregatorOptions(**options))


def counts_for(name, counts_N, *, num_classes):
    """Gives an aggregator the counts in the form that it reads, alike for all classes."""
    if name == "class_count" and counts_N is not None:
        return {"counts_NC": np.tile(np.asarray(counts_N)[:, None], (1, num_classes))}
    return {"counts_N": counts_N}


def aggregate_probabilities(name, probabilities, **options):
    """Aggregates the nodes' probabilities (N, C) of one sample."""
    logits = np.log(np.asarray(probabilities))[:, None]
    return softmax(aggregate(name, logits, **options).logits_SC)[0]


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


def test_mean_by_hand():
    result = aggregate("mean", [[[0, 2]], [[4, 0]]])
    np.testing.assert_allclose(result.logits_SC, [[2, 1]])


def test_mean_probability_by_hand():
    result = aggregate_probabilities("mean_probability", [[0.9, 0.1], [0.5, 0.5]])
    np.testing.assert_allclose(result, [0.7, 0.3], atol=1e-6)


def test_era_by_hand():
    # Mean (.7, .3) over τ = .5: logits .8 apart, and 1 / (1 + exp(−.8)) = .689974.
    result = aggregate_probabilities("era", [[0.9, 0.1], [0.5, 0.5]], temperature=0.5)
    assert result[0] == pytest.approx(0.689974, abs=1e-6)


def test_enhanced_era_by_hand():
    # .49 / (.49 + .09)
    result = aggregate_probabilities("enhanced_era", [[0.9, 0.1], [0.5, 0.5]], exponent=2)
    assert result[0] == pytest.approx(0.844828, abs=1e-6)


def test_confidence_by_hand():
    # Entropies ln 2 and 0, which counts as .1·ln 2: weights 1 and 10, (.5 + 10·0) / 11.
    result = softmax(aggregate("confidence", [[[0, 0]], [[-1000, 0]]]).logits_SC)
    assert result[0, 0] == pytest.approx(0.5 / 11, abs=1e-6)


def test_variance_by_hand():
    # Variances 4 and 1: .8·2 + .2·(−1) = 1.4.
    result = aggregate("variance", [[[2, -2]], [[-1, 1]]])
    np.testing.assert_allclose(result.logits_SC, [[1.4, -1.4]], rtol=1e-6)


def test_variance_is_the_plain_mean_where_no_node_prefers_a_class():
    result = aggregate("variance", [[[2, 2]], [[4, 4]]])
    np.testing.assert_allclose(result.logits_SC, [[3, 3]])


def test_count_by_hand():
    result = aggregate_probabilities("count", [[0.9, 0.1], [0.5, 0.5]], counts_N=np.array([3, 1]))
    np.testing.assert_allclose(result, [0.8, 0.2], atol=1e-6)


def test_count_weighs_each_class_by_those_who_saw_it():
    # Class 0: .8 as above; class 1, which nobody saw: .3 as a plain mean; 1.1 together.
    counts = np.array([[3, 0], [1, 0]])
    result = aggregate_probabilities("count", [[0.9, 0.1], [0.5, 0.5]], counts_NC=counts)
    np.testing.assert_allclose(result, [0.8 / 1.1, 0.3 / 1.1], atol=1e-6)


def test_count_asks_only_the_nodes_that_answered():
    present = np.array([[False], [True], [True]])
    logits = np.log([[[0.1, 0.9]], [[0.9, 0.1]], [[0.5, 0.5]]])
    result = aggregate("count", logits, present, counts_N=np.array([7, 0, 0])).logits_SC
    np.testing.assert_allclose(softmax(result), [[0.7, 0.3]], atol=1e-6)


def test_class_count_by_hand():
    # The nodes' probabilities are likeliest for classes 0 and 1: the first node has 8 and 3 samples
    # of them and weighs 3, the second has 1 and 50 and weighs 1; class 2 does not matter.
    logits = [[[4.0, 2.0, 0.0]], [[2.0, 4.0, 0.0]]]
    counts = np.array([[8, 3, 0], [1, 50, 99]])
    result = aggregate("class_count", logits, counts_NC=counts)
    np.testing.assert_allclose(result.logits_SC, [[1.5, 0.5, -2.0]], atol=1e-6)


def test_class_count_asks_all_alike_where_nobody_knows_both_classes():
    logits = [[[4.0, 2.0, 0.0]], [[2.0, 4.0, 0.0]]]
    result = aggregate("class_count", logits, counts_NC=np.array([[8, 0, 9], [0, 5, 9]]))
    np.testing.assert_allclose(result.logits_SC, [[1.0, 1.0, -2.0]], atol=1e-6)


def test_class_count_needs_counts_of_classes():
    with pytest.raises(ConfigError, match=r"needs sample counts of shape \(7, 5\), got none"):
        aggregate("class_count", draw_logits(0), counts_N=None)


def test_median_by_hand():
    # Medians .5, .3 and .3; 1.1 together.
    result = aggregate_probabilities("median", [[0.6, 0.3, 0.1], [0.5, 0.1, 0.4], [0.2, 0.5, 0.3]])
    np.testing.assert_allclose(result, np.array([0.5, 0.3, 0.3]) / 1.1, atol=1e-6)


def test_median_of_an_even_number_is_the_mean_of_the_middle_two():
    nodes = [[0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0.3, 0.7]]
    assert aggregate_probabilities("median", nodes)[0] == pytest.approx(0.5, abs=1e-6)


def test_trimmed_mean_by_hand():
    # .1 and .99 are cut off; (.4 + .5 + .75) / 3 = .55.
    nodes = [[p, 1 - p] for p in (0.1, 0.4, 0.5, 0.75, 0.99)]
    assert aggregate_probabilities("trimmed_mean", nodes, trim_ratio=0.2)[0] == pytest.approx(0.55, abs=1e-6)


def test_trimmed_mean_cuts_the_share_of_those_who_answered():
    # Five of ten answered: one is cut off at each end, as above.
    nodes = np.array([[p, 1 - p] for p in (0.1, 0.4, 0.5, 0.75, 0.99)] * 2)
    present = np.arange(10)[:, None] < 5
    result = aggregate("trimmed_mean", np.log(nodes)[:, None], present, trim_ratio=0.2).logits_SC
    assert softmax(result)[0, 0] == pytest.approx(0.55, abs=1e-6)


def test_geometric_median_by_hand():
    # On a line it is the median.
    nodes = [[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]
    assert aggregate_probabilities("geometric_median", nodes)[0] == pytest.approx(0.6, abs=1e-4)


def test_cronus_by_hand():
    # The last lies furthest out and goes: (.8 + .7 + .6 + .7) / 4.
    nodes = [[p, 1 - p] for p in (0.8, 0.7, 0.6, 0.7, 0.01)]
    assert aggregate_probabilities("cronus", nodes, trim_ratio=0.2)[0] == pytest.approx(0.7, abs=1e-6)


GOLDEN_LOGITS = (np.arange(36) ** 2 * 7 % 23 * 0.25).reshape(6, 2, 3)
GOLDEN_PRESENT = np.array([[1, 1], [1, 1], [1, 0], [1, 1], [1, 1], [1, 1]], bool)
GOLDEN = {
    "class_count": [[0.41494, 0.184677, 0.400382], [0.227785, 0.322346, 0.449869]],
    "confidence": [[0.3639969, 0.24354266, 0.39246045], [0.25119242, 0.34585253, 0.40295505]],
    "count": [[0.41453275, 0.21800265, 0.3674646], [0.23234254, 0.34544328, 0.42221418]],
    "cronus": [[0.44335994, 0.34171289, 0.21492718], [0.25438969, 0.42604104, 0.31956926]],
    "enhanced_era": [[0.40636419, 0.2721832, 0.32145261], [0.21844704, 0.36232952, 0.41922344]],
    "era": [[0.50388806, 0.20597136, 0.29014057], [0.1292374, 0.35728745, 0.51347515]],
    "geometric_median": [[0.41655746, 0.32173117, 0.26171137], [0.22989358, 0.38308252, 0.3870239]],
    "mean": [[0.38913743, 0.26744999, 0.34341258], [0.27925926, 0.32445298, 0.39628776]],
    "mean_probability": [[0.38155352, 0.29209182, 0.32635466], [0.25345199, 0.35514095, 0.39140705]],
    "median": [[0.39739165, 0.29124768, 0.31136067], [0.22677393, 0.38661303, 0.38661303]],
    "trimmed_mean": [[0.40191203, 0.30996323, 0.28812473], [0.27464732, 0.35219896, 0.37315373]],
    "variance": [[0.43700046, 0.21619205, 0.3468075], [0.22432287, 0.29109898, 0.48457815]],
}


@every_aggregator
def test_golden_soft_labels(name):
    result = aggregate(name, GOLDEN_LOGITS, GOLDEN_PRESENT).logits_SC
    np.testing.assert_allclose(softmax(result), GOLDEN[name], atol=2e-6)


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


@pytest.mark.parametrize("name", sorted(TAKES_WEIGHTS))
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
