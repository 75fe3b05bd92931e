"""flwr-datasets as the oracle: what both should deal alike."""

import numpy as np
import pytest

from fedstill.common.partitioners import PARTITIONERS, PartitionOptions

datasets = pytest.importorskip("datasets", exc_type=ImportError)
oracle = pytest.importorskip("flwr_datasets.partitioner", exc_type=ImportError)

# Their sort uses an option that pyarrow has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Specifying null_placement:FutureWarning")

NUM_NODES = 10
LABELS = np.random.default_rng(5).permutation(np.repeat(np.arange(10), 100))


def deal_theirs(partitioner, labels=LABELS, groups=None):
    columns = {"row": np.arange(len(labels)), "label": labels}
    if groups is not None:
        columns["group"] = groups
    partitioner.dataset = datasets.Dataset.from_dict(columns)
    return [np.array(partitioner.load_partition(node)["row"]) for node in range(partitioner.num_partitions)]


def deal_ours(name, labels=LABELS, groups=None, *, num_nodes=NUM_NODES, seed=0, **options):
    rng = np.random.default_rng(seed)
    return PARTITIONERS[name](
        labels, groups, num_nodes=num_nodes, rng=rng, options=PartitionOptions(**options)
    )


def sorted_sizes(parts):
    return sorted(len(part) for part in parts)


def counts_by_class(parts):
    return np.array([np.bincount(LABELS[part], minlength=10) for part in parts])


def skew(parts):
    """Mean entropy of the nodes' classes, and the spread of the nodes' sizes."""
    counts_NC = counts_by_class(parts)
    shares_NC = counts_NC / counts_NC.sum(axis=1, keepdims=True)
    logs_NC = np.log(shares_NC, where=shares_NC > 0, out=np.zeros_like(shares_NC))
    return np.array([-(shares_NC * logs_NC).sum(axis=1).mean(), counts_NC.sum(axis=1).std()])


@pytest.mark.parametrize("num_samples", [1000, 997, 13])
def test_iid_sizes_agree(num_samples):
    theirs = deal_theirs(oracle.IidPartitioner(num_partitions=NUM_NODES), LABELS[:num_samples])
    assert sorted_sizes(deal_ours("iid", LABELS[:num_samples])) == sorted_sizes(theirs)


def skew_over_seeds(deal):
    return np.mean([skew(deal(seed)) for seed in range(25)], axis=0)


def deal_their_dirichlet(alpha, seed):
    return deal_theirs(
        oracle.DirichletPartitioner(
            num_partitions=NUM_NODES, partition_by="label", alpha=alpha, min_partition_size=1, seed=seed
        )
    )


def deal_our_dirichlet(alpha, seed):
    return deal_ours("dirichlet", seed=seed, alpha=alpha, min_samples_per_node=1)


@pytest.mark.filterwarnings("ignore:The specified min_partition_size")
@pytest.mark.parametrize("alpha", [0.3, 1.0, 5.0])
def test_dirichlet_skew_agrees(alpha):
    theirs = skew_over_seeds(lambda seed: deal_their_dirichlet(alpha, seed))
    ours = skew_over_seeds(lambda seed: deal_our_dirichlet(alpha, seed))
    assert ours == pytest.approx(theirs, rel=0.12)


@pytest.mark.filterwarnings("ignore:The specified min_partition_size")
@pytest.mark.parametrize("wrong", [0.5, 2.0])
def test_dirichlet_skew_would_tell_another_alpha(wrong):
    theirs = skew_over_seeds(lambda seed: deal_their_dirichlet(1.0, seed))
    ours = skew_over_seeds(lambda seed: deal_our_dirichlet(wrong, seed))
    assert ours != pytest.approx(theirs, rel=0.12)


def deal_their_shards(labels_per_node, seed):
    return deal_theirs(
        oracle.ShardPartitioner(
            num_partitions=NUM_NODES,
            partition_by="label",
            num_shards_per_partition=labels_per_node,
            seed=seed,
        )
    )


@pytest.mark.parametrize("labels_per_node", [1, 2, 4])
def test_shards_sizes_agree(labels_per_node):
    theirs = deal_their_shards(labels_per_node, 0)
    assert sorted_sizes(deal_ours("shards", labels_per_node=labels_per_node)) == sorted_sizes(theirs)


@pytest.mark.parametrize("labels_per_node", [1, 2, 4])
def test_shards_labels_per_node_agree(labels_per_node):
    def mean_labels(deal):
        return np.mean([(counts_by_class(deal(seed)) > 0).sum(axis=1).mean() for seed in range(15)])

    theirs = mean_labels(lambda seed: deal_their_shards(labels_per_node, seed))
    ours = mean_labels(lambda seed: deal_ours("shards", seed=seed, labels_per_node=labels_per_node))
    assert ours == pytest.approx(theirs, rel=0.05)


def test_natural_groups_agree_exactly():
    ids = np.random.default_rng(1).integers(0, 12, size=len(LABELS))
    theirs = deal_theirs(oracle.NaturalIdPartitioner(partition_by="group"), groups=ids)
    ours = deal_ours("group", groups=ids.astype(str), num_nodes=len(theirs))
    assert all(map(np.array_equal, ours, theirs))
