"""int4: the square root of the log-probability in 4 bits, range per row; C/2 + 4 bytes per sample.

The same roots as `lp8` keep the finest steps for the classes that hold the probability; with
16 steps instead of 256 the range has to be the row's own.
"""

from __future__ import annotations

import numpy as np

from fedstill.common.codecs.codec import Codec, Logits, Payload, check_size
from fedstill.common.codecs.lp8 import MAX_NATS, take_roots
from fedstill.common.errors import ExchangeError

_STEPS = 15
_RANGE = np.dtype("<f2")


def _row_bytes(num_classes: int) -> int:
    return 2 * _RANGE.itemsize + (num_classes + 1) // 2


def encode_int4(logits_SC: Logits, *, temperature: float) -> bytes:
    """Writes softmax(logits / temperature): per row lowest and highest root, then two classes per byte."""
    roots_SC = take_roots(logits_SC, temperature=temperature)
    ranges_S2 = np.stack([roots_SC.min(axis=1), roots_SC.max(axis=1)], axis=1).astype(_RANGE)
    low_S1, high_S1 = (ranges_S2[:, index : index + 1].astype(np.float32) for index in (0, 1))
    scale_S1 = np.divide(_STEPS, high_S1 - low_S1, out=np.zeros_like(low_S1), where=high_S1 > low_S1)
    steps_SC = np.clip(np.rint((roots_SC - low_S1) * scale_S1), 0, _STEPS).astype(np.uint8)
    if steps_SC.shape[1] % 2:
        steps_SC = np.concatenate([steps_SC, np.zeros((len(steps_SC), 1), np.uint8)], axis=1)
    packed = steps_SC[:, ::2] | (steps_SC[:, 1::2] << 4)
    return np.concatenate([ranges_S2.view(np.uint8), packed], axis=1).tobytes()


def decode_int4(payload: Payload, *, num_samples: int, num_classes: int, temperature: float) -> Logits:
    """Reads what `encode_int4` wrote, as temperature times log-probability.

    Raises:
        ExchangeError: The payload has the wrong size or claims an impossible range.
    """
    row_bytes = _row_bytes(num_classes)
    check_size(payload, num_samples * row_bytes, codec="int4", shape=(num_samples, num_classes))
    rows = np.frombuffer(payload, np.uint8).reshape(num_samples, row_bytes)
    head = 2 * _RANGE.itemsize
    ranges_S2 = np.ascontiguousarray(rows[:, :head]).view(_RANGE).astype(np.float32)
    low_S1, high_S1 = ranges_S2[:, :1], ranges_S2[:, 1:]
    if not bool(((low_S1 >= 0) & (low_S1 <= high_S1) & (high_S1**2 <= MAX_NATS + 0.1)).all()):
        raise ExchangeError(
            f"codec int4: expected ranges within 0 to {MAX_NATS**0.5:.3f}; the chunk was not written by"
            " this codec"
        )
    packed = rows[:, head:]
    steps_SC = np.stack([packed & 15, packed >> 4], axis=2).reshape(num_samples, -1)[:, :num_classes]
    roots_SC = low_S1 + steps_SC * ((high_S1 - low_S1) / _STEPS)
    logits: Logits = (-temperature * roots_SC**2).astype(np.float32)
    return logits


INT4 = Codec(
    name="int4",
    encode=encode_int4,
    decode=decode_int4,
    max_payload_bytes=lambda num_samples, num_classes: num_samples * _row_bytes(num_classes),
)

BUILT_IN = {"int4": INT4}
