"""fp16: logits below their row's largest, as little-endian float16; 2C bytes per sample."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fedstill.common.codecs.codec import Codec, Logits, Payload, check_size

_LOWEST = float(np.finfo(np.float16).min)


def encode_fp16(logits_SC: Logits, *, temperature: float) -> bytes:  # noqa: ARG001
    """Writes logits (S, C), shifted so that the largest of each row is 0.

    The shift keeps large logits from overflowing and puts float16's finest steps on
    the classes that carry the probability; what lies below float16's range (a
    probability of 0 at any temperature in use) is clipped to it.
    """
    shifted_SC = logits_SC.astype(np.float64) - logits_SC.max(axis=1, keepdims=True)
    halves_SC: npt.NDArray[np.float16] = np.maximum(shifted_SC, _LOWEST).astype("<f2")
    return halves_SC.tobytes()


def decode_fp16(payload: Payload, *, num_samples: int, num_classes: int, temperature: float) -> Logits:  # noqa: ARG001
    """Reads what `encode_fp16` wrote.

    Raises:
        ExchangeError: The payload has the wrong size.
    """
    check_size(payload, 2 * num_samples * num_classes, codec="fp16", shape=(num_samples, num_classes))
    return np.frombuffer(payload, dtype="<f2").reshape(num_samples, num_classes).astype(np.float32)


FP16 = Codec(
    name="fp16",
    encode=encode_fp16,
    decode=decode_fp16,
    max_payload_bytes=lambda num_samples, num_classes: 2 * num_samples * num_classes,
)

BUILT_IN = {"fp16": FP16}
