"""The node store: what a node keeps on disk between rounds.

One folder per run and node. A node keeps the student of its base round (the last
that the coordinator committed) and its newest one, so that a round can be redone.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from fedstill.clients.schemes import Rows
from fedstill.common.artefact import read_costs
from fedstill.common.compressors.structure import load_compressed
from fedstill.common.errors import CheckpointError, ExchangeError

ROWS_FILE = "rows.npz"
COSTS_FILE = "costs.json"
"""Of a round that ended without an artefact, whose manifest holds them elsewhere."""
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class NodeStore:
    """Students and artefact of one node in one run."""

    def __init__(self, home: Path, *, run_id: str, node_id: str) -> None:
        """Opens the store; nothing is written yet.

        Args:
            home: Root of all stores of this machine.
            run_id: Our run id.
            node_id: Our node id.

        Raises:
            ExchangeError: An id that is no plain file name.
        """
        for kind, name in (("run id", run_id), ("node id", node_id)):
            if not _SAFE_NAME.fullmatch(name):
                raise ExchangeError(f"expected a {kind} of letters, digits, '.', '_' and '-', got {name!r}")
        self.folder = home / "nodes" / run_id / node_id

    def round_dir(self, round_number: int) -> Path:
        """Folder of the student and the artefact that a round ended with."""
        return self.folder / f"round-{round_number:05d}"

    def student_path(self, round_number: int) -> Path:
        """Weights of the student that a round ended with."""
        return self.round_dir(round_number) / "student.safetensors"

    def artefact_dir(self, round_number: int) -> Path:
        """Artefact that a round ended with."""
        return self.round_dir(round_number) / "artefact"

    def read_costs(self, round_number: int) -> list[dict[str, Any]]:
        """Reads what compression cost the student that a round ended with, step by step."""
        with suppress(OSError, ValueError):
            costs: list[dict[str, Any]] = json.loads((self.round_dir(round_number) / COSTS_FILE).read_text())
            return costs
        return read_costs(self.artefact_dir(round_number))

    def load_student(self, model: nn.Module, *, base_round: int) -> bool:
        """Loads the student of a committed round.

        Args:
            model: Receives the weights, and the shapes that compression left.
            base_round: The round; 0 is the initial student, which the model has already.

        Returns:
            False where the student is not here or unreadable: the model keeps its
            initial weights, and the caller reports the reset.
        """
        if base_round == 0:
            return True
        try:
            load_compressed(model, self.student_path(base_round))
        except CheckpointError:
            return False
        return True

    @contextmanager
    def write_round(self, round_number: int, *, base_round: int) -> Iterator[Path]:
        """Yields a folder for a round's student and artefact and puts it in place whole.

        Rounds that are neither the base nor this one are dropped afterwards.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=self.folder, prefix=".staging-"))
        try:
            yield staging
            final = self.round_dir(round_number)
            if final.exists():  # the round is being redone
                shutil.rmtree(final)
            staging.rename(final)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        keep = {self.round_dir(round_number), self.round_dir(base_round)}
        for path in self.folder.iterdir():
            if path not in keep:
                shutil.rmtree(path, ignore_errors=True)

    def release(self) -> None:
        """Forgets the node's part of this run, and the run's folder with the last node."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # other nodes of this machine may still be in it
            self.folder.parent.rmdir()


def write_costs(folder: Path, costs: list[dict[str, Any]]) -> None:
    """Keeps what compression cost a student that is left without an artefact."""
    (folder / COSTS_FILE).write_text(json.dumps(costs))


def write_rows(folder: Path, rows: Rows) -> None:
    """Keeps what a node sent in a round beside the round's student."""
    np.savez(folder / ROWS_FILE, values=rows.values, counts_R=rows.counts_R)


def read_rows(folder: Path) -> Rows | None:
    """Reads what a node sent in a round; None where it sent nothing or the file is damaged."""
    try:
        with np.load(folder / ROWS_FILE, allow_pickle=False) as content:
            return Rows(content["values"], content["counts_R"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
