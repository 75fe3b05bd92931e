"""What a node fetches for a task, through the label cache of its machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedstill.clients.distil import SoftLabels
from fedstill.clients.hints import Hint
from fedstill.clients.labels import FetchedArray, LabelCache, Transport
from fedstill.clients.node_store import NodeStore
from fedstill.clients.private import PrivateData, load_public_samples
from fedstill.clients.schemes import Rows
from fedstill.common.arrays import digest_array
from fedstill.common.config import Config
from fedstill.common.encoders import Encoder, encoder_from_json
from fedstill.common.errors import DigestError, ExchangeError
from fedstill.common.seeding import stream_seed
from fedstill.common.training import choose_device
from fedstill.common.views import Views
from fedstill.protos.fedstill.v1 import fleet_pb2


@dataclass(frozen=True)
class NodeContext:
    """What a task is carried out with."""

    config: Config
    private: PrivateData
    cache: LabelCache
    store: NodeStore
    transport: Transport = Transport()  # noqa: RUF009 it is frozen
    graphs_dir: Path | None = None
    """Keeps graphs of students that were traced here."""

    @property
    def device(self) -> str:
        """What torch computes on; raises `ConfigError` where it is not there."""
        return choose_device(self.config.federation.device, key="federation.device")


class Fetcher:
    """Fetches arrays and adds up what crossed the wire."""

    def __init__(self, node: NodeContext, source: fleet_pb2.LabelSource) -> None:
        """Fetches nothing yet."""
        self._node = node
        self._source = source
        self.node_id = node.private.node_id
        self.wire_bytes = 0

    def fetch(self, digest: bytes) -> np.ndarray:
        """Fetches an array by the digest of its manifest."""
        fetched: FetchedArray = self._node.cache.fetch_array(
            self._source.address, digest, timeout_seconds=self._node.config.exchange.timeout_seconds
        )
        self.wire_bytes += fetched.wire_bytes
        return fetched.array

    def fetch_encoder(self) -> Encoder | None:
        """Fetches what makes ids of raw text; None where samples are numbers."""
        digest = self._source.encoder_digest
        if not digest:
            return None
        return encoder_from_json(self.fetch(digest).tobytes(), origin=f"array {digest.hex()}")

    def fetch_public(self) -> np.ndarray:
        """Fetches the public samples, or takes the node's own if they are the same."""
        exchange = self._node.config.exchange
        if exchange.public_samples == "stream":
            return self.fetch(self._source.public_digest)
        samples = load_public_samples(self._node.config, self.fetch_encoder())
        if digest_array(samples, chunk_bytes=exchange.chunk_bytes) != self._source.public_digest:
            raise DigestError(
                f"{self._node.private.node_id}: the local public samples are not those that the teacher"
                " labelled; set exchange.public_samples=stream or bring the same data"
            )
        return samples


def fetch_shared(fetcher: Fetcher, source: fleet_pb2.LabelSource) -> Rows | None:
    """Fetches what a scheme without public samples shares; None in the first round."""
    if not source.knowledge_digest:
        return None
    values = fetcher.fetch(source.knowledge_digest)
    counts = np.array(source.knowledge_counts, np.float64)
    if len(counts) != len(values):
        raise ExchangeError(f"expected a count for each of {len(values)} shared rows, got {len(counts)}")
    return Rows(np.array(values, np.float32), counts)


def fetch_labels(
    fetcher: Fetcher, task: fleet_pb2.TaskRequest, rows: np.ndarray | Views | None
) -> SoftLabels | None:
    """Fetches the soft labels of the public rows, and features beside; None where there are none yet."""
    source = task.labels
    if not source.label_set_id or rows is None:
        return None
    logits = fetcher.fetch(source.labels_digest)
    if len(rows) != len(logits):
        raise ExchangeError(
            f"expected a soft label for each of {len(rows)} public samples, got {len(logits)}"
        )
    if not source.features_digest:
        return SoftLabels(rows, logits)
    features = fetcher.fetch(source.features_digest)
    if len(rows) != len(features):
        raise ExchangeError(f"expected features of each of {len(rows)} public samples, got {len(features)}")
    hyper = task.hyperparameters
    seed = stream_seed(task.seed, "feature-projection", node=fetcher.node_id)
    return SoftLabels(rows, logits, Hint(hyper.loss, features, hyper.feature_weight, seed))
