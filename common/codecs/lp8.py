"""lp8: the square root of the log-probability in 8 bits, range per chunk; C bytes per sample.

With r = sqrt(-log p) an error of d in r changes log p by 2·r·d: the classes that hold
the probability (small r) get the finest steps, so the KL that it costs stays near
range²·entropy/(6·255²), below 1e-4 for ordinary teachers at the temperature of encoding.
"""

from __future__ import annotations

import math
import struct

import numpy as np

from fedstill.common.codecs.codec import Codec, Logits, Payload, check_size
from fedstill.common.errors import ExchangeError

# Probabilities below e^-32 weigh nothing at the temperature of encoding; without a
# limit one wild row would coarsen the steps of its whole chunk.
MAX_NATS = 32.0
_HEADER = struct.Struct("<ff")
_STEPS = 255


def take_roots(logits_SC: Logits, *, temperature: float) -> Logits:
    """Computes sqrt(−log softmax(logits / temperature)), limited to sqrt(32)."""
    scaled_SC = (logits_SC.astype(np.float64) - logits_SC.max(axis=1, keepdims=True)) / temperature
    nats_SC = np.log(np.exp(scaled_SC).sum(axis=1, keepdims=True)) - scaled_SC
    roots_SC: Logits = np.sqrt(np.clip(nats_SC, 0.0, MAX_NATS)).astype(np.float32)
    return roots_SC


def encode_lp8(logits_SC: Logits, *, temperature: float) -> bytes:
    """Writes softmax(logits / temperature) as the lowest root, the highest root and (S, C) bytes."""
    roots_SC = take_roots(logits_SC, temperature=temperature)
    low, high = float(roots_SC.min()), float(roots_SC.max())
    scale = _STEPS / (high - low) if high > low else 0.0
    steps_SC = np.rint((roots_SC - low) * scale).astype(np.uint8)
    return _HEADER.pack(low, high) + bytes(steps_SC.tobytes())


def decode_lp8(payload: Payload, *, num_samples: int, num_classes: int, temperature: float) -> Logits:
    """Reads what `encode_lp8` wrote, as temperature times log-probability.

    Raises:
        ExchangeError: The payload has the wrong size or claims an impossible range.
    """
    expected = _HEADER.size + num_samples * num_classes
    check_size(payload, expected, codec="lp8", shape=(num_samples, num_classes))
    low, high = _HEADER.unpack_from(payload)
    if not 0.0 <= low <= high <= math.sqrt(MAX_NATS) + 1e-3:
        raise ExchangeError(
            f"codec lp8: expected a range within 0 to {math.sqrt(MAX_NATS):.3f}, got {low} to {high};"
            " the chunk was not written by this codec"
        )
    steps_SC = np.frombuffer(payload, dtype=np.uint8, offset=_HEADER.size).reshape(num_samples, num_classes)
    roots = low + np.arange(_STEPS + 1) * ((high - low) / _STEPS)
    table: Logits = (-temperature * roots**2).astype(np.float32)
    return table[steps_SC]


LP8 = Codec(
    name="lp8",
    encode=encode_lp8,
    decode=decode_lp8,
    max_payload_bytes=lambda num_samples, num_classes: _HEADER.size + num_samples * num_classes,
)

BUILT_IN = {"lp8": LP8}
