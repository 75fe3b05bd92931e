"""What a run knows and publishes, from the first teacher to the last ensemble."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from fedstill.common.config import Config
from fedstill.common.datasets import Dataset, Splits
from fedstill.common.models import InputSpec
from fedstill.common.models.foreign import takes_text
from fedstill.common.views import Views, open_views
from fedstill.server.exchange.encodings import encode_labels
from fedstill.server.exchange.publication import Encoding, Publication
from fedstill.server.exchange.teacher import Teacher, seen_by
from fedstill.server.labels import LabelSet, LabelStore
from fedstill.server.run.records import ConclusionRecord, ExchangeRecord


@dataclass
class Exchange:
    """The coordinator's side of a scheme; `publication` and `teacher` change from round to round."""

    config: Config
    store: LabelStore
    dataset: Dataset
    splits: Splits
    spec: InputSpec
    publication: Publication
    teacher: Teacher | None = None
    given_origin: str = ""
    """Digest of the file of soft labels that stands in for a teacher."""
    round: int = 0
    notes: ConclusionRecord = field(default_factory=ConclusionRecord)
    """Figures of the last conclusion, for `rounds.jsonl`."""

    @property
    def public_rows(self) -> np.ndarray | Views:
        """What soft labels belong to, row by row: the public samples, or all their views."""
        samples_S = self.dataset.x_train[self.splits.public]
        return open_views(samples_S, self.publication.views, self.spec)

    @property
    def has_teacher_labels(self) -> bool:
        """Whether the public rows have soft labels before the first round: a teacher's, or given ones."""
        return self.teacher is not None or bool(self.given_origin)

    @property
    def teacher_rows(self) -> np.ndarray | Views:
        """The public rows as the teacher takes them: `public_rows`, or raw texts."""
        assert self.teacher is not None
        if takes_text(self.teacher.model):
            return seen_by(self.teacher.model, self.dataset).x_train[self.splits.public]
        return self.public_rows

    def find_labels(self, *, origin: str) -> LabelSet | None:
        """Finds the soft labels of the public rows that a teacher gave before."""
        return self.store.find_labels(
            teacher_digest=origin,
            public_digest=self.publication.public_digest.hex(),
            augmentation_seed=self.publication.views.index_key,
        )

    def publish_labels(self, logits_SC: np.ndarray, *, origin: str) -> None:
        """Publishes soft labels of the public rows for the next round.

        Args:
            logits_SC: Logits (S, C), float32, in the order of `public_rows`.
            origin: Digest of the teacher or the ensemble that they come from, hexadecimal.
        """
        views = self.publication.views
        labels = self.store.publish_labels(
            logits_SC,
            teacher_digest=origin,
            public_digest=self.publication.public_digest.hex(),
            augmentation_seed=views.index_key,
            augmentation=views.describe(),
            chunk_bytes=self.config.exchange.chunk_bytes,
        )
        encodings = encode_labels(self.store, labels.id, self.config)
        self.publication = replace(
            self.publication,
            label_set_id=labels.id,
            labels_digest=encodings[0].digest,
            codec=encodings[0].codec,
            temperature=self.config.distill.temperature,
            encodings=encodings,
            array_bytes=self.publication.array_bytes | _sizes(encodings),
        )

    def publish_features(self, features: np.ndarray) -> None:
        """Publishes the teacher's features of the public rows, in the order of their soft labels.

        Args:
            features: Features (S, D) or attention maps (S, *places), float16.
        """
        digest = self.store.publish_samples(features, chunk_bytes=self.config.exchange.chunk_bytes)
        size = self.store.array(digest).num_bytes
        self.publication = replace(
            self.publication,
            features_digest=digest,
            array_bytes=self.publication.array_bytes | {digest.hex(): size},
        )

    def publish_rows(self, values: np.ndarray, counts_R: np.ndarray) -> None:
        """Publishes class means, prototypes or weights (R, D), float32, for the next round."""
        digest = self.store.publish_samples(
            np.ascontiguousarray(values, np.float32), chunk_bytes=self.config.exchange.chunk_bytes
        )
        size = self.store.array(digest).num_bytes
        self.publication = replace(
            self.publication,
            knowledge_digest=digest,
            knowledge_counts=tuple(float(count) for count in counts_R),
            array_bytes=self.publication.array_bytes | {digest.hex(): size},
        )

    def remember(self, record: ExchangeRecord) -> None:
        """Writes what the next round fetches into the run's state."""
        publication = self.publication
        digests = (publication.labels_digest, publication.knowledge_digest)
        record.label_set_id = publication.label_set_id
        record.labels_digest = publication.labels_digest.hex()
        record.knowledge_digest = publication.knowledge_digest.hex()
        record.knowledge_counts = list(publication.knowledge_counts)
        record.array_bytes = {
            digest.hex(): publication.array_bytes[digest.hex()] for digest in digests if digest
        }

    def restore(self, record: ExchangeRecord) -> None:
        """Takes up what `remember` wrote in an earlier life of the run, if it did."""
        if record.labels_digest is None:
            return
        encodings = encode_labels(self.store, record.label_set_id, self.config) if record.label_set_id else ()
        self.publication = replace(
            self.publication,
            label_set_id=record.label_set_id,
            labels_digest=bytes.fromhex(record.labels_digest),
            codec=encodings[0].codec if encodings else "",
            temperature=self.config.distill.temperature,
            encodings=encodings,
            knowledge_digest=bytes.fromhex(record.knowledge_digest),
            knowledge_counts=tuple(record.knowledge_counts),
            array_bytes=self.publication.array_bytes | record.array_bytes | _sizes(encodings),
        )


def _sizes(encodings: tuple[Encoding, ...]) -> dict[str, int]:
    return {encoding.digest.hex(): encoding.num_bytes for encoding in encodings}
