"""Reads what a node sent, and lets in only what fits."""

from __future__ import annotations

import numpy as np

from fedstill.common.errors import ExchangeError
from fedstill.protos.fedstill.v1 import fleet_pb2
from fedstill.server.aggregators import needs_class_counts
from fedstill.server.aggregators.admission import check_upload
from fedstill.server.exchange.exchange import Exchange
from fedstill.server.labels import UploadStore
from fedstill.server.schemes.records import Contribution, Scheme

MAX_FEATURES = 65_536


def receive_contribution(
    uploads: UploadStore,
    scheme: Scheme,
    exchange: Exchange,
    response: fleet_pb2.TaskResponse,
    *,
    num_train_samples: int,
) -> Contribution:
    """Reads and checks the array that a node's answer names.

    Args:
        uploads: Where the label service puts what nodes send.
        scheme: What the rows have to be.
        exchange: How many samples and classes there are.
        response: The node's answer.
        num_train_samples: The node's private samples.

    Returns:
        The verified contribution; rows that the node left out are nan.

    Raises:
        ExchangeError: Nothing arrived, or it has another shape, counts or values.
    """
    if not response.upload_digest:
        raise ExchangeError(f"{response.node_id} sent no array, the scheme needs one")
    sent = uploads.read(response.round, response.node_id, response.upload_digest)
    num_classes = exchange.dataset.num_classes
    values = np.asarray(sent.array, np.float32)
    if scheme.rows == "public":
        num_samples = len(exchange.splits.public) * exchange.publication.views.num_views
        values = _spread(values, sent.covered_S, num_samples)
        known = np.isfinite(values).all(axis=1)
        check_upload(values[known], num_samples=int(known.sum()), num_classes=num_classes)
        counts = np.array([num_train_samples])
        if needs_class_counts(exchange.config.federation.aggregator):
            counts = _read_counts(response, num_classes, num_train_samples)
    elif scheme.rows in ("classes", "features"):
        counts = _read_counts(response, num_classes, num_train_samples)
        if values.ndim != 2 or values.shape[1] > MAX_FEATURES:
            raise ExchangeError(f"expected a row for each of {num_classes} classes, got {values.shape}")
        width = num_classes if scheme.rows == "classes" else values.shape[1]
        check_upload(values, num_samples=num_classes, num_classes=width)
    else:
        check_upload(values, num_samples=1, num_classes=response.model.num_parameters)
        counts = np.array([num_train_samples])
    return Contribution(response.node_id, values, counts, num_bytes=sent.num_bytes)


def _read_counts(response: fleet_pb2.TaskResponse, num_classes: int, num_train_samples: int) -> np.ndarray:
    counts = np.array(response.upload_counts, np.int64)
    if len(counts) != num_classes:
        raise ExchangeError(f"expected a count for each of {num_classes} classes, got {len(counts)}")
    if counts.min() < 0 or counts.sum() > num_train_samples:
        raise ExchangeError(
            f"expected counts of {num_train_samples} private samples in all, got {counts.tolist()}"
        )
    return counts


def _spread(values: np.ndarray, covered_S: np.ndarray | None, num_samples: int) -> np.ndarray:
    if covered_S is None:
        if len(values) != num_samples:
            raise ExchangeError(f"expected logits on {num_samples} public samples, got {len(values)}")
        return values
    if len(covered_S) != num_samples:
        raise ExchangeError(f"expected a mask of {num_samples} public samples, got {len(covered_S)}")
    spread = np.full((num_samples, *values.shape[1:]), np.nan, np.float32)
    spread[covered_S] = values
    return spread
