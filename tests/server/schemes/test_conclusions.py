"""What the coordinator makes of the nodes' contributions, by hand."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from fedstill.clients.schemes import LEARNERS
from fedstill.common.config import load_config
from fedstill.common.datasets import load_dataset, split_dataset
from fedstill.common.errors import ConfigError, ExchangeError, RunError
from fedstill.common.models import measure_input
from fedstill.protos.fedstill.v1 import fleet_pb2
from fedstill.server.aggregators import AggregatorOptions, get_aggregator
from fedstill.server.exchange.exchange import Exchange
from fedstill.server.exchange.publication import publish_public, publish_samples
from fedstill.server.labels import LabelStore
from fedstill.server.run.records import ExchangeRecord
from fedstill.server.schemes import SCHEMES, Contribution, get_scheme
from fedstill.server.schemes.admission import receive_contribution
from fedstill.server.schemes.ensemble import aggregate_logits


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Exchange:
    config = load_config(overrides=["data.num_public=40", "federation.num_nodes=3"])
    dataset = load_dataset(config.data, seed=0)
    splits = split_dataset(dataset, data=config.data, federation=config.federation, seed=0)
    spec = measure_input(dataset.x_train[splits.server_train], task="image", layout="HW", scale=1.0)
    store = LabelStore(tmp_path_factory.mktemp("store"))
    publication = publish_samples(
        store,
        config,
        address="127.0.0.1:1",
        spec=spec,
        class_names=dataset.class_names,
        feature_names=(),
        evaluation_S=dataset.x_test,
        validation_S=dataset.x_train[splits.server_validation],
    )
    publication = publish_public(store, config, publication, dataset.x_train[splits.public])
    return Exchange(config, store, dataset, splits, spec, publication)


@pytest.fixture
def exchange(base: Exchange) -> Exchange:
    return dataclasses.replace(base)


def contribution(name: str, values: object, counts: object) -> Contribution:
    return Contribution(name, np.array(values, np.float32), np.array(counts))


def published_rows(exchange: Exchange) -> np.ndarray:
    stored = exchange.store.array(exchange.publication.knowledge_digest)
    from fedstill.common.arrays import decode_chunk, parse_manifest, read_message

    manifest = parse_manifest(stored.manifest, digest=exchange.publication.knowledge_digest)
    return np.concatenate(
        [
            decode_chunk(manifest, index, read_message(manifest, index, stored.message(index)))
            for index in range(stored.num_chunks)
        ]
    )


def test_class_means_count_every_node_once_that_knows_the_class(exchange: Exchange) -> None:
    SCHEMES["classwise"].conclude(  # type: ignore[misc]
        exchange,
        [
            contribution("node-0000", [[1, 0], [9, 9]], [100, 0]),
            contribution("node-0001", [[3, 2], [4, 6]], [1, 5]),
        ],
    )
    np.testing.assert_allclose(published_rows(exchange), [[2, 1], [4, 6]])
    assert exchange.publication.knowledge_counts == (2.0, 1.0)


def test_prototypes_weigh_every_sample_alike(exchange: Exchange) -> None:
    SCHEMES["prototypes"].conclude(  # type: ignore[misc]
        exchange,
        [contribution("node-0000", [[0.0], [8]], [3, 0]), contribution("node-0001", [[4.0], [2]], [1, 2])],
    )
    np.testing.assert_allclose(published_rows(exchange), [[1.0], [2.0]])


def test_prototypes_of_different_widths_are_refused_by_name(exchange: Exchange) -> None:
    with pytest.raises(ConfigError, match=r"node-0000 has 1, node-0001 has 2"):
        SCHEMES["prototypes"].conclude(  # type: ignore[misc]
            exchange,
            [contribution("node-0000", [[0.0]], [3]), contribution("node-0001", [[4.0, 1.0]], [1])],
        )


def test_weights_are_averaged_by_sample_counts(exchange: Exchange) -> None:
    SCHEMES["weights"].conclude(  # type: ignore[misc]
        exchange,
        [contribution("node-0000", [[0.0, 4.0]], [30]), contribution("node-0001", [[4.0, 0.0]], [10])],
    )
    np.testing.assert_allclose(published_rows(exchange), [[1.0, 3.0]])


def test_ensemble_publishes_the_mean_of_what_nodes_say(exchange: Exchange) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 40, 10)).astype(np.float32)
    SCHEMES["ensemble"].conclude(  # type: ignore[misc]
        exchange, [contribution(f"node-{index:04d}", logits[index], [5]) for index in range(2)]
    )
    stored = exchange.store.logits(exchange.publication.label_set_id)
    np.testing.assert_allclose(stored, logits.mean(axis=0), atol=1e-6)


@pytest.mark.parametrize(
    ("aggregator", "key", "options"),
    [
        ("era", "temperature", [0.1, 0.5]),
        ("enhanced_era", "exponent", [1.0, 3.0]),
        ("trimmed_mean", "trim_ratio", [0.0, 0.4]),
        ("cronus", "trim_ratio", [0.0, 0.4]),
    ],
)
def test_aggregator_is_tuned_by_the_configuration(
    exchange: Exchange, aggregator: str, key: str, options: list[float]
) -> None:
    logits = np.random.default_rng(0).normal(0, 3, (5, 40, 10)).astype(np.float32)
    sent = [contribution(f"node-{index:04d}", logits[index], [5]) for index in range(5)]
    stored = []
    for value in options:
        overrides = [f"federation.aggregator={aggregator}", f"federation.aggregator_{key}={value}"]
        exchange.config = load_config(overrides=overrides)
        SCHEMES["ensemble"].conclude(exchange, sent)  # type: ignore[misc]
        published = np.array(exchange.store.logits(exchange.publication.label_set_id))
        expected = get_aggregator(aggregator)(
            logits, present_NS=np.ones((5, 40), bool), options=AggregatorOptions(**{key: value})
        )
        np.testing.assert_allclose(published, expected.logits_SC, atol=1e-6)
        stored.append(published)
    assert np.abs(stored[0] - stored[1]).max() > 0.01


def test_samples_that_nobody_labelled_keep_their_labels(exchange: Exchange) -> None:
    before = np.full((40, 10), 0.25, np.float32)
    exchange.publish_labels(before, origin="a" * 64)
    logits = np.ones((40, 10), np.float32)
    logits[:5] = np.nan
    SCHEMES["ensemble"].conclude(exchange, [contribution("node-0000", logits, [5])])  # type: ignore[misc]
    stored = exchange.store.logits(exchange.publication.label_set_id)
    np.testing.assert_allclose(stored[:5], 0.25)
    np.testing.assert_allclose(stored[5:], 1.0)


def test_ensemble_of_nobody_ends_the_run_with_the_reason(exchange: Exchange) -> None:
    with pytest.raises(RunError, match="no node sent logits"):
        SCHEMES["ensemble"].conclude(exchange, [])  # type: ignore[misc]


def test_what_is_remembered_is_restored(exchange: Exchange, base: Exchange) -> None:
    exchange.publish_labels(np.zeros((40, 10), np.float32), origin="b" * 64)
    exchange.publish_rows(np.ones((2, 3), np.float32), np.array([1, 2]))
    again = dataclasses.replace(base)
    record = ExchangeRecord()
    exchange.remember(record)
    again.restore(record)
    assert again.publication == exchange.publication


class Uploads:
    """An upload store that holds one array."""

    def __init__(self, values: object, covered_S: object = None) -> None:
        self.sent = SimpleNamespace(array=np.array(values, np.float32), covered_S=covered_S, num_bytes=77)

    def read(self, round_number: int, node_id: str, digest: bytes) -> SimpleNamespace:
        return self.sent


def receive(exchange: Exchange, scheme: str, uploads: Uploads, **facts: object) -> Contribution:
    response = fleet_pb2.TaskResponse(node_id="node-0001", round=1, upload_digest=b"\1" * 32)
    response.model.num_parameters = 4
    response.upload_counts.extend(facts.get("counts", []))  # type: ignore[arg-type]
    return receive_contribution(
        uploads,  # type: ignore[arg-type]
        get_scheme(scheme),
        exchange,
        response,
        num_train_samples=20,
    )


def test_received_logits_count_their_bytes(exchange: Exchange) -> None:
    assert receive(exchange, "ensemble", Uploads(np.zeros((40, 10)))).num_bytes == 77


def counting(exchange: Exchange) -> Exchange:
    config = load_config(overrides=["federation.aggregator=class_count", "data.num_public=40"])
    return dataclasses.replace(exchange, config=config)


def test_counts_of_classes_come_with_the_logits_where_the_aggregator_weighs_by_them(
    exchange: Exchange,
) -> None:
    received = receive(counting(exchange), "ensemble", Uploads(np.zeros((40, 10))), counts=[2] * 10)
    assert received.counts_R.tolist() == [2] * 10
    for counts, reason in (([], "each of 10 classes, got 0"), ([3] * 10, "20 private samples in all")):
        with pytest.raises(ExchangeError, match=reason):
            receive(counting(exchange), "ensemble", Uploads(np.zeros((40, 10))), counts=counts)


def test_node_that_knows_both_likeliest_classes_is_heard(exchange: Exchange) -> None:
    knows, guesses = np.zeros((2, 40, 10), np.float32)
    knows[:, 3], knows[:, 4] = 6, 5
    guesses[:, 3], guesses[:, 4] = 5, 8
    counts_C = np.eye(10)[3] * 9 + np.eye(10)[4] * 9
    members = [
        contribution("node-0000", knows, counts_C),
        contribution("node-0001", guesses, np.eye(10)[4] * 500),
    ]
    labels = aggregate_logits(counting(exchange), members)
    assert (labels.argmax(axis=1) == 3).all()


def test_partly_labelled_public_set_is_spread_over_its_rows(exchange: Exchange) -> None:
    covered = np.arange(40) < 3
    values = receive(exchange, "ensemble", Uploads(np.ones((3, 10)), covered)).values
    assert np.isfinite(values[:3]).all()
    assert np.isnan(values[3:]).all()


@pytest.mark.parametrize(
    ("scheme", "values", "counts", "reason"),
    [
        ("ensemble", np.zeros((39, 10)), [], "40 public samples"),
        ("ensemble", np.zeros((40, 9)), [], "expected logits of shape"),
        ("classwise", np.zeros((10, 10)), [1] * 9, "each of 10 classes"),
        ("classwise", np.zeros((10, 3)), [1] * 10, "expected logits of shape"),
        ("classwise", np.zeros((10, 10)), [100] * 10, "20 private samples"),
        ("classwise", np.full((10, 10), 1e9), [1] * 10, "the most that is taken"),
        ("weights", np.zeros((1, 5)), [], "expected logits of shape"),
    ],
)
def test_unfit_arrays_are_refused_with_the_reason(
    exchange: Exchange, scheme: str, values: np.ndarray, counts: list[int], reason: str
) -> None:
    with pytest.raises(ExchangeError, match=reason):
        receive(exchange, scheme, Uploads(values), counts=counts)


def test_answer_without_an_array_is_refused(exchange: Exchange) -> None:
    response = fleet_pb2.TaskResponse(node_id="node-0001", round=1)
    with pytest.raises(ExchangeError, match="sent no array"):
        receive_contribution(
            Uploads([]),  # type: ignore[arg-type]
            get_scheme("ensemble"),
            exchange,
            response,
            num_train_samples=1,
        )


def test_every_scheme_has_both_sides() -> None:
    assert set(SCHEMES) == set(LEARNERS)


@pytest.mark.parametrize(
    ("scheme", "expected", "counts"),
    [("classwise", [[3.0]], (1.5,)), ("prototypes", [[3.5]], (4.0,)), ("weights", [[3.5]], (6.0,))],
)
def test_late_contributions_weigh_less(
    scheme: str, expected: list[list[float]], counts: tuple[float, ...], exchange: Exchange
) -> None:
    # At weights 1 and ½: classwise counts nodes, (2 + 5·½) / 1.5; the others count samples, of
    # which there are 2 and 4·½, (2·2 + 5·2) / 4.
    early = contribution("node-0000", [[2.0]], [2])
    late = dataclasses.replace(contribution("node-0001", [[5.0]], [4]), weight=0.5)
    SCHEMES[scheme].conclude(exchange, [early, late])  # type: ignore[misc]
    np.testing.assert_allclose(published_rows(exchange), expected)
    assert exchange.publication.knowledge_counts == counts
