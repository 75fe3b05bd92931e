"""Random streams: each is a function of (seed, purpose, node, round) and of nothing else."""

from __future__ import annotations

import hashlib

import numpy as np


def stream_seed(seed: int, purpose: str, *, node: str = "", round_number: int = 0) -> int:
    """Derives the seed of one random stream.

    Args:
        seed: The run's seed.
        purpose: What the stream is for, as "partition" or "student-batches".
        node: Node id, empty for the coordinator's own streams.
        round_number: Round, 0 outside rounds.

    Returns:
        An integer in [0, 2**63), the same on every machine.
    """
    text = f"{seed}\x1f{purpose}\x1f{node}\x1f{round_number}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def stream(seed: int, purpose: str, *, node: str = "", round_number: int = 0) -> np.random.Generator:
    """Opens the NumPy generator of one random stream; arguments as for `stream_seed`."""
    return np.random.default_rng(stream_seed(seed, purpose, node=node, round_number=round_number))
