"""The codec of soft labels, chosen by what it costs the labels and what the node's link carries."""

from __future__ import annotations

from collections.abc import Sequence

from fedstill.common.devices import Link
from fedstill.server.exchange.encodings import AUTO
from fedstill.server.exchange.publication import Encoding

USUAL = "lp8"
# A node's logits are averaged with others': what is lost of them more than this is not made good.
MAX_UPLOAD_NATS = 0.05


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
