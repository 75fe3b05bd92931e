"""Predictions in the run folder: written while nodes still work, in place when their round is committed."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from fedstill.server.figures.scoring import write_predictions
from fedstill.server.rounds.answers import ReplyScore

PREDICTIONS_FILE = "predictions.npy"
STAGED_FILE = f".{PREDICTIONS_FILE}.staged"
# Writing waits for the disk, and a disk takes several waits at once.
NUM_THREADS = 4


class PredictionWriter:
    """Keeps `nodes/<node>/predictions.npy` at the last committed round; a context manager."""

    def __init__(self, run_dir: Path) -> None:
        self._folder = run_dir / "nodes"
        self._pool = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="predictions")
        self._staged: dict[str, Future[None]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def stage(self, score: ReplyScore) -> None:
        """Begins to write what a node predicted in the round that is under way."""
        found = score.evaluation
        if found is None:
            return
        path = self._folder / score.node_id / STAGED_FILE
        self._staged[score.node_id] = self._pool.submit(
            write_predictions, path, found.classes_S, found.confidences_S, found.fp32_classes_S
        )

    def commit(self, scores: Sequence[ReplyScore]) -> None:
        """Puts a round's predictions in place, once all of them are on disk.

        Raises:
            OSError: One could not be written.
        """
        node_ids = sorted({score.node_id for score in scores if score.evaluation is not None})
        for node_id in node_ids:
            self._staged.pop(node_id).result()
        for node_id in node_ids:
            folder = self._folder / node_id
            (folder / STAGED_FILE).replace(folder / PREDICTIONS_FILE)
