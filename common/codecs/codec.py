"""What every codec is: a record of three functions over one chunk of logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fedstill.common.errors import ExchangeError

Logits = npt.NDArray[np.float32]
Payload = bytes | memoryview


class Encode(Protocol):
    """Turns the logits (S, C) of one chunk, float32 and finite, into its payload."""

    def __call__(self, logits_SC: Logits, *, temperature: float) -> bytes: ...


class Decode(Protocol):
    """Turns a payload back into float32 logits (S, C), up to a constant per row."""

    def __call__(
        self, payload: Payload, *, num_samples: int, num_classes: int, temperature: float
    ) -> Logits: ...


@dataclass(frozen=True)
class Codec:
    """One way to write logits as bytes.

    Attributes:
        name: Its name in the registry, in configurations and in manifests.
        encode: Chunk to payload; row order is kept and the same logits give the same bytes.
        decode: Payload to chunk; raises ExchangeError for a payload that it did not write.
        max_payload_bytes: Largest payload for (samples, classes), so that a reader can
            refuse a manifest that claims more.
    """

    name: str
    encode: Encode
    decode: Decode
    max_payload_bytes: Callable[[int, int], int]


def check_size(payload: Payload, expected: int, *, codec: str, shape: tuple[int, int]) -> None:
    """Refuses a payload of the wrong size.

    Raises:
        ExchangeError: The payload is not `expected` bytes long.
    """
    if len(payload) != expected:
        raise ExchangeError(
            f"codec {codec}: expected {expected} bytes for {shape[0]} samples of {shape[1]} classes,"
            f" got {len(payload)}; the chunk is not of this array"
        )
