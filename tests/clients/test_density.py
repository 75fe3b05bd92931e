"""Which public samples lie where a node's own data lies."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from fedstill.clients.density import choose_shared, find_clusters, squared_distances


def blobs(centres, num=40, spread=0.3, seed=0):
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(centre, spread, (num, 2)) for centre in centres]).astype(np.float32)


def rng():
    return np.random.default_rng(0)


def test_distances_are_those_by_hand():
    found = squared_distances(np.array([[0, 0], [3, 4]], np.float32), np.array([[0, 0], [0, 4]], np.float32))
    np.testing.assert_allclose(found, [[0, 16], [25, 9]])


def test_clusters_are_found():
    centres = find_clusters(blobs([(0, 0), (10, 0), (0, 10)]), num_clusters=3, rng=rng())
    distances = squared_distances(np.array([[0, 0], [0, 10], [10, 0]], np.float32), centres)
    assert sorted(distances.argmin(axis=1)) == [0, 1, 2]
    assert distances.min(axis=1).max() < 0.1


def test_clusters_are_as_tight_as_a_librarys():
    samples = np.random.default_rng(3).normal(size=(200, 4)).astype(np.float32)
    ours = squared_distances(samples, find_clusters(samples, num_clusters=5, rng=rng())).min(axis=1).sum()
    theirs = KMeans(5, n_init=10, random_state=0).fit(samples).inertia_
    assert ours <= 1.15 * theirs


def test_equal_samples_make_one_cluster():
    assert len(find_clusters(np.ones((5, 2), np.float32), num_clusters=3, rng=rng())) == 1


def test_public_samples_near_any_cluster_are_shared_and_far_ones_withheld():
    private = blobs([(0, 0), (10, 10)])
    public = blobs([(0, 0), (10, 10), (0, 10), (40, 40)], num=20, spread=0.1, seed=1)
    chosen = choose_shared(private, public, num_clusters=2, quantile=0.95, rng=rng())
    assert chosen[:40].mean() > 0.9
    assert not chosen[40:].any()


def test_a_node_with_one_sample_shares_the_nearest():
    public = np.array([[5.0, 5.0], [1.0, 1.0]], np.float32)
    chosen = choose_shared(np.zeros((1, 2), np.float32), public, num_clusters=3, quantile=0.9, rng=rng())
    assert chosen.tolist() == [False, True]


@settings(max_examples=25, deadline=None)
@given(st.floats(0.1, 0.9), st.integers(1, 6), st.integers(0, 1000))
def test_a_wider_quantile_shares_no_less(quantile, num_clusters, seed):
    samples = np.random.default_rng(seed).normal(size=(60, 3)).astype(np.float32)
    narrow, wide = (
        choose_shared(samples[:30], samples[30:], num_clusters=num_clusters, quantile=level, rng=rng())
        for level in (quantile, quantile + 0.1)
    )
    assert not (narrow & ~wide).any()


@pytest.mark.parametrize("quantile", [0.5, 1.0])
def test_the_same_stream_chooses_the_same(quantile):
    private, public = blobs([(0, 0)]), blobs([(0, 0), (1, 1)], seed=2)
    first, second = (
        choose_shared(private, public, num_clusters=2, quantile=quantile, rng=rng()) for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
