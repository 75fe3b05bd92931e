"""Building an encoder from the texts that may be seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from fedstill.common.encoders.kinds import ENCODERS
from fedstill.common.encoders.records import MAX_IDS, NUM_RESERVED, Encoder
from fedstill.common.errors import DataError, unknown_name

# Most texts whole, without the few very long ones setting the cost of all.
_QUANTILE = 0.95
_GRAIN = 8


def fit_encoder(kind: str, texts_S: Iterable[str], *, num_ids: int = MAX_IDS, max_length: int = 0) -> Encoder:
    """Builds an encoder; the order of the texts does not matter.

    Args:
        kind: A name of the registry.
        texts_S: Raw texts: the server's and the public ones, never private ones.
        num_ids: Ids at most, padding and unknown among them; the most frequent
            symbols get one.
        max_length: Symbols per sample; 0: as many as 95 of 100 texts have, up to the
            limit of the kind.

    Returns:
        The encoder.

    Raises:
        ConfigError: An unknown kind.
        DataError: The texts hold no symbol at all.
    """
    if kind not in ENCODERS:
        raise unknown_name("encoder", kind, ENCODERS)
    chosen = ENCODERS[kind]
    counts: Counter[str] = Counter()
    lengths = []
    for text in texts_S:
        symbols = chosen.split(text)
        counts.update(symbols)
        lengths.append(len(symbols))
    if not counts:
        raise DataError(f"expected texts to build an encoder of {kind} on, got {len(lengths)} without any")
    if not max_length:
        typical = int(np.quantile(lengths, _QUANTILE, method="higher"))
        max_length = min(-(-typical // _GRAIN) * _GRAIN, chosen.longest)
    return Encoder(kind, tuple(chosen.choose(counts)[: num_ids - NUM_RESERVED]), max(1, max_length))
