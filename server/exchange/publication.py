"""What a run publishes through the label service, and how nodes are told of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from fedstill.common.config import Config
from fedstill.common.encoders import Encoder
from fedstill.common.models import InputSpec
from fedstill.common.seeding import stream_seed
from fedstill.common.views import ViewPlan
from fedstill.common.wire import input_to_proto, views_to_proto
from fedstill.protos.fedstill.v1 import fleet_pb2
from fedstill.server.labels import LabelStore


@dataclass(frozen=True)
class Encoding:
    """One form of a label set on the wire."""

    codec: str
    digest: bytes
    num_bytes: int
    kl_nats: float
    """KL(soft labels ‖ decoded ones), mean over samples, at the run's temperature."""


@dataclass(frozen=True)
class Publication:
    """Arrays in the label store that this run's tasks refer to.

    Digests are those of manifests, 32 bytes; `array_bytes` holds the size of each on
    the wire, manifest and chunks, by hexadecimal digest.
    """

    address: str
    spec: InputSpec
    class_names: tuple[str, ...]
    feature_names: tuple[str, ...]
    evaluation_digest: bytes
    validation_digest: bytes
    public_digest: bytes = b""
    label_set_id: str = ""
    labels_digest: bytes = b""
    codec: str = ""
    temperature: float = 0.0
    knowledge_digest: bytes = b""
    knowledge_counts: tuple[float, ...] = ()
    encoder_digest: bytes = b""
    encodings: tuple[Encoding, ...] = ()
    """All forms of the soft labels that nodes may get; `codec` and `labels_digest` are the usual one."""
    views: ViewPlan = field(default_factory=ViewPlan)
    features_digest: bytes = b""
    array_bytes: dict[str, int] = field(default_factory=dict)

    def in_codec(self, codec: str) -> Publication:
        """Chooses the form of the soft labels; one that there is not leaves the usual one."""
        for encoding in self.encodings:
            if encoding.codec == codec:
                return replace(self, codec=codec, labels_digest=encoding.digest)
        return self

    def source(self) -> fleet_pb2.LabelSource:
        """Packs what a node has to know to fetch."""
        return fleet_pb2.LabelSource(
            address=self.address,
            label_set_id=self.label_set_id,
            codec=self.codec,
            temperature=self.temperature,
            labels_digest=self.labels_digest,
            public_digest=self.public_digest,
            evaluation_digest=self.evaluation_digest,
            validation_digest=self.validation_digest,
            encoder_digest=self.encoder_digest,
            knowledge_digest=self.knowledge_digest,
            knowledge_counts=self.knowledge_counts,
            views=views_to_proto(self.views),
            features_digest=self.features_digest,
        )

    def input(self) -> fleet_pb2.InputSpec:
        """Packs what samples look like."""
        return input_to_proto(self.spec, class_names=self.class_names, feature_names=self.feature_names)


def publish_samples(
    store: LabelStore,
    config: Config,
    *,
    address: str,
    spec: InputSpec,
    class_names: tuple[str, ...],
    feature_names: tuple[str, ...],
    evaluation_S: np.ndarray,
    validation_S: np.ndarray,
    encoder: Encoder | None = None,
) -> Publication:
    """Publishes the inputs that every scheme's nodes predict on.

    Args:
        store: The run's label store.
        config: The run's configuration.
        address: Where nodes reach the label service, host:port.
        spec: What samples look like.
        class_names: Names of the classes.
        feature_names: Names of a table's columns; empty for other samples.
        evaluation_S: Inputs of the evaluation set; its labels stay here.
        validation_S: Inputs of the server's validation part; its labels stay here.
        encoder: What made ids of raw text; None where samples are numbers.

    Returns:
        The publication, still without labels.
    """
    chunk_bytes = config.exchange.chunk_bytes
    evaluation = store.publish_samples(evaluation_S, chunk_bytes=chunk_bytes)
    validation = store.publish_samples(validation_S, chunk_bytes=chunk_bytes)
    digests = [evaluation, validation]
    if encoder is not None:
        content = np.frombuffer(encoder.to_json(), np.uint8)
        digests.append(store.publish_samples(content, chunk_bytes=chunk_bytes))
    return Publication(
        address,
        spec,
        class_names,
        feature_names,
        evaluation,
        validation,
        encoder_digest=digests[2] if encoder is not None else b"",
        array_bytes={digest.hex(): store.array(digest).num_bytes for digest in digests},
    )


def publish_public(
    store: LabelStore, config: Config, publication: Publication, public_S: np.ndarray
) -> Publication:
    """Adds the public samples, still without labels.

    Args:
        store: The run's label store.
        config: The run's configuration.
        publication: What is published already.
        public_S: Public samples, in the order that labels will have.

    Returns:
        The publication with public samples; where nodes have them already, they count no bytes.
    """
    digest = store.publish_samples(public_S, chunk_bytes=config.exchange.chunk_bytes)
    is_local = config.exchange.public_samples == "local"
    size = 0 if is_local else store.array(digest).num_bytes
    return replace(
        publication,
        public_digest=digest,
        views=plan_views(config),
        array_bytes=publication.array_bytes | {digest.hex(): size},
    )


def plan_views(config: Config) -> ViewPlan:
    """Plans which views of the public samples are labelled; the seed is the run's own."""
    distill = config.distill
    if distill.num_views == 1:
        return ViewPlan()
    return ViewPlan(
        seed=stream_seed(config.seed, "public-views"),
        num_views=distill.num_views,
        mixup_ratio=distill.mixup_ratio,
        flips=distill.flip_views,
    )
