"""What a scheme is to the coordinator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedstill.server.exchange.exchange import Exchange


@dataclass(frozen=True)
class Contribution:
    """What one node sent in one round, verified."""

    node_id: str
    values: np.ndarray
    """Logits on public samples (S, C), class means (C, D), or weights (1, P); float32."""
    counts_R: np.ndarray
    """Private samples of each class, where rows are classes or the aggregator weighs by them; else in all."""
    num_bytes: int = 0
    """What sending it takes: manifest and chunks."""
    weight: float = 1.0
    """Below 1 where it answers an older round."""


Conclude = Callable[[Exchange, list[Contribution]], None]


@dataclass(frozen=True)
class Scheme:
    """One entry of the registry.

    `conclude` turns what the nodes sent in a round into what the next round publishes;
    it is None where nodes send nothing.
    """

    has_teacher: bool = False
    uses_public: bool = False
    conclude: Conclude | None = None
    rows: str = ""
    """What a contribution's rows are: logits of "public" samples or of "classes", "features" of
    classes, or "weights" in one row."""
    shares: str = ""
    """What has to be alike in all students, as values are averaged position by position: "weights of
    one shape", "features of one width"; empty where nodes may have different ones."""
    begins_together: bool = False
    """All students begin from the same weights."""
    takes_over: bool = False
    """One more round ends a run, in which nodes take the last conclusion over and learn nothing."""
    is_alone: bool = False
    """Nodes learn from their private data alone: a student is its own `local` control."""
    learn: Callable[..., Any] | None = None
    """What nodes do, from a `Lesson` to an `Outcome`, in a scheme of the user's module; ours stand in
    `fedstill.clients.schemes`."""

    @property
    def shares_architecture(self) -> bool:
        """All nodes train one architecture."""
        return self.shares == "weights of one shape"

    def last_round(self, num_rounds: int) -> int:
        """Gives the number of the last round, where students learn in `num_rounds`."""
        return num_rounds + self.takes_over
