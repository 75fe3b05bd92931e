import numpy as np
import pytest

from fedstill.common.errors import DataError
from fedstill.common.partitioners import PartitionOptions
from fedstill.common.partitioners.dirichlet import partition_dirichlet

LABELS = np.repeat(np.arange(10), 100)


def deal(*, alpha, minimum=0, num_nodes=8, seed=0, labels=LABELS):
    options = PartitionOptions(alpha=alpha, min_samples_per_node=minimum)
    return partition_dirichlet(
        labels, None, num_nodes=num_nodes, rng=np.random.default_rng(seed), options=options
    )


@pytest.mark.parametrize("seed", range(20))
def test_every_node_gets_the_minimum(seed):
    assert min(len(part) for part in deal(alpha=0.1, minimum=20, seed=seed)) >= 20


def test_large_alpha_gives_each_node_the_same_share_of_each_class():
    for part in deal(alpha=1e6):
        assert np.all(np.abs(np.bincount(LABELS[part], minlength=10) - 12.5) <= 1.5)


def test_vanishing_alpha_gives_each_class_to_one_node():
    counts_NC = np.array([np.bincount(LABELS[part], minlength=10) for part in deal(alpha=1e-6)])
    assert np.all(counts_NC.max(axis=0) == 100)


def test_minimum_that_exceeds_the_samples_is_refused():
    with pytest.raises(DataError, match="8 nodes of at least 200 samples need 1600, but 1000 are private"):
        deal(alpha=0.5, minimum=200)


def test_minimum_that_no_draw_reaches_is_refused():
    with pytest.raises(DataError, match=r"no draw .* raise federation.alpha \(0.01\)"):
        deal(alpha=0.01, minimum=125)
