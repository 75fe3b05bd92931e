"""Each aggregator on cases that were computed by hand, and its golden values."""

import numpy as np
import pytest

from tests.server.aggregators.ensembles import aggregate, every_aggregator, softmax


def aggregate_probabilities(name, probabilities, **options):
    """Aggregates the nodes' probabilities (N, C) of one sample."""
    logits = np.log(np.asarray(probabilities))[:, None]
    return softmax(aggregate(name, logits, **options).logits_SC)[0]


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
