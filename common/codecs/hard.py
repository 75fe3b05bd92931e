"""hard: the most probable class alone, ⌈log2 C⌉ bits per sample.

What is left of soft labels without their softness: the control that says what they are worth.
A decoded row is as sure as the temperature of encoding allows, so that a loss at that
temperature sees one-hot targets.
"""

from __future__ import annotations

import numpy as np

from fedstill.common.codecs.codec import Codec, Logits, Payload, check_size
from fedstill.common.errors import ExchangeError

# e^-32 is as good as no probability, and finite.
CERTAIN_NATS = 32.0


def _bits(num_classes: int) -> int:
    return max(1, (num_classes - 1).bit_length())


def _payload_bytes(num_samples: int, num_classes: int) -> int:
    return (num_samples * _bits(num_classes) + 7) // 8


def encode_hard(logits_SC: Logits, *, temperature: float) -> bytes:  # noqa: ARG001 every codec takes it
    """Writes the index of each row's largest logit, lowest bit first; of equal ones the first."""
    bits = _bits(logits_SC.shape[1])
    classes_S = logits_SC.argmax(axis=1)
    flags_SB = (classes_S[:, None] >> np.arange(bits)) & 1
    return np.packbits(flags_SB.astype(np.uint8).ravel(), bitorder="little").tobytes()


def decode_hard(payload: Payload, *, num_samples: int, num_classes: int, temperature: float) -> Logits:
    """Reads what `encode_hard` wrote: 0 for the class, temperature · −32 for all others.

    Raises:
        ExchangeError: The payload has the wrong size or names a class that does not exist.
    """
    expected = _payload_bytes(num_samples, num_classes)
    check_size(payload, expected, codec="hard", shape=(num_samples, num_classes))
    bits = _bits(num_classes)
    flags = np.unpackbits(np.frombuffer(payload, np.uint8), bitorder="little")[: num_samples * bits]
    classes_S = (flags.reshape(num_samples, bits).astype(np.int64) << np.arange(bits)).sum(axis=1)
    if num_samples and classes_S.max() >= num_classes:
        raise ExchangeError(
            f"codec hard: expected classes below {num_classes}, got {classes_S.max()}; the chunk was not"
            " written by this codec"
        )
    logits_SC = np.full((num_samples, num_classes), -temperature * CERTAIN_NATS, np.float32)
    logits_SC[np.arange(num_samples), classes_S] = 0.0
    return logits_SC


HARD = Codec(name="hard", encode=encode_hard, decode=decode_hard, max_payload_bytes=_payload_bytes)

BUILT_IN = {"hard": HARD}
