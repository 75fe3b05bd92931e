"""The codec of soft labels, chosen by what it costs the labels and what the node's link carries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedstill.common.codecs import CODECS, get_codec
from fedstill.common.config import Config
from fedstill.common.devices import Link
from fedstill.common.errors import FedStillError
from fedstill.server.exchange.publication import Encoding
from fedstill.server.figures.labels import measure_divergence
from fedstill.server.labels import LabelStore

AUTO = "auto"
USUAL = "lp8"
# Labels this near to the teacher's make students no worse that anybody could measure.
INDISTINGUISHABLE_NATS = 1e-3
# A node's logits are averaged with others': what is lost of them more than this is not made good.
MAX_UPLOAD_NATS = 0.05
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


def choose_codec(
    encodings: Sequence[Encoding], link: Link | None, *, label_seconds: float
) -> tuple[str, str]:
    """Chooses the codec that loses least among those that the link carries in time.

    Args:
        encodings: What there is, as `encode_labels` sorts it; may be empty.
        link: The node's link; None where nobody knows.
        label_seconds: Longest that a label set may take.

    Returns:
        Its name, and why, in words.
    """
    if not encodings:
        return USUAL, "no labels yet"
    if link is None:
        return encodings[0].codec, "the link is not known"
    rate = link.down_bytes_per_second
    for encoding in encodings:
        seconds = link.latency_seconds + encoding.num_bytes / rate
        if seconds <= label_seconds:
            loss = f"costs {encoding.kl_nats:.1e} nats"
            return (
                encoding.codec,
                f"{encoding.num_bytes:,} bytes in {seconds:.2g} s at {rate:,.0f} B/s, {loss}",
            )
    least = min(encodings, key=lambda encoding: encoding.num_bytes)
    seconds = link.latency_seconds + least.num_bytes / rate
    return (
        least.codec,
        f"the smallest, {seconds:.2g} s at {rate:,.0f} B/s, over {label_seconds:g} s all the same",
    )


def reconsider_codec(
    current: str, encodings: Sequence[Encoding], link: Link | None, *, label_seconds: float, band: float = 1.5
) -> tuple[str, str] | None:
    """Chooses again after the link was seen, and moves only where a good way off the border.

    Args:
        current: The node's codec.
        encodings: What there is.
        link: The link as seen.
        label_seconds: Longest that a label set may take.
        band: The choice has to be the same for a link this many times faster and slower.

    Returns:
        Another codec and why; None to stay.
    """
    if link is None:
        return None
    chosen, reason = choose_codec(encodings, link, label_seconds=label_seconds)
    for factor in (band, 1 / band):
        other = link.model_copy(update={"down_bytes_per_second": link.down_bytes_per_second * factor})
        if choose_codec(encodings, other, label_seconds=label_seconds)[0] != chosen:
            return None
    return None if chosen == current else (chosen, reason)


def choose_upload_codec(
    chosen: str, encodings: Sequence[Encoding], link: Link | None, *, label_seconds: float
) -> str:
    """Chooses the codec of logits that a node sends back: `chosen` unless that is "auto"."""
    if chosen != AUTO:
        return chosen
    faithful = [encoding for encoding in encodings if encoding.kl_nats <= MAX_UPLOAD_NATS]
    upward = link and link.model_copy(update={"down_bytes_per_second": link.up_bytes_per_second})
    return choose_codec(faithful, upward, label_seconds=label_seconds)[0]
