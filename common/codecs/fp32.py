"""fp32: the logits themselves, row-major little-endian float32; 4C bytes per sample, lossless."""

from __future__ import annotations

import numpy as np

from fedstill.common.codecs.codec import Codec, Logits, Payload, check_size


def encode_fp32(logits_SC: Logits, *, temperature: float) -> bytes:  # noqa: ARG001
    """Writes logits (S, C) as they are; the temperature changes nothing."""
    return logits_SC.astype("<f4").tobytes()


def decode_fp32(payload: Payload, *, num_samples: int, num_classes: int, temperature: float) -> Logits:  # noqa: ARG001
    """Reads what `encode_fp32` wrote.

    Raises:
        ExchangeError: The payload has the wrong size.
    """
    check_size(payload, 4 * num_samples * num_classes, codec="fp32", shape=(num_samples, num_classes))
    return (
        np.frombuffer(payload, dtype="<f4").reshape(num_samples, num_classes).astype(np.float32, copy=False)
    )


FP32 = Codec(
    name="fp32",
    encode=encode_fp32,
    decode=decode_fp32,
    max_payload_bytes=lambda num_samples, num_classes: 4 * num_samples * num_classes,
)

BUILT_IN = {"fp32": FP32}
