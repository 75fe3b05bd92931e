"""A label set in the codecs that nodes may get, and what each costs the labels."""

from __future__ import annotations

import numpy as np

from fedstill.common.codecs import CODECS, get_codec
from fedstill.common.config import Config
from fedstill.common.errors import FedStillError
from fedstill.server.exchange.publication import Encoding
from fedstill.server.figures.labels import measure_divergence
from fedstill.server.labels import LabelStore

AUTO = "auto"
# Labels this near to the teacher's make students no worse that anybody could measure.
INDISTINGUISHABLE_NATS = 1e-3
# Twice and four times as long as lp8, and students cannot tell.
_WASTEFUL = ("fp32", "fp16")
_NUM_MEASURED = 2048


def encode_labels(store: LabelStore, label_set_id: str, config: Config) -> tuple[Encoding, ...]:
    """Encodes a label set in every codec that nodes of this run may get.

    Args:
        store: The run's label store.
        label_set_id: The set.
        config: `exchange.codec` names one codec, or "auto".

    Returns:
        The encodings, the one first that a node with an unknown link gets.

    Raises:
        ConfigError: An unknown codec.
    """
    temperature = config.distill.temperature
    chosen = config.exchange.codec
    names = [chosen] if chosen != AUTO else [name for name in CODECS if name not in _WASTEFUL]
    rows = np.asarray(store.logits(label_set_id)[:_NUM_MEASURED])
    found = []
    for name in names:
        try:
            loss = measure_codec(name, rows, temperature=temperature)
            digest = store.encode(label_set_id, codec=name, temperature=temperature).digest
        except FedStillError:  # one that does not take so few classes
            if chosen != AUTO:
                raise
            continue
        found.append(Encoding(name, digest, store.array(digest).num_bytes, loss))
    return tuple(sorted(found, key=_worth))


def measure_codec(name: str, logits_SC: np.ndarray, *, temperature: float) -> float:
    """Measures what a codec costs soft labels: KL(before ‖ after), nats, mean over samples."""
    codec = get_codec(name)
    decoded = codec.decode(
        codec.encode(logits_SC, temperature=temperature),
        num_samples=logits_SC.shape[0],
        num_classes=logits_SC.shape[1],
        temperature=temperature,
    )
    return max(0.0, measure_divergence(logits_SC, decoded, temperature=temperature))


def _worth(encoding: Encoding) -> tuple[float, int]:
    loss = encoding.kl_nats if encoding.kl_nats > INDISTINGUISHABLE_NATS else 0.0
    return loss, encoding.num_bytes
