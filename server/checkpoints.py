"""The state of a federation, committed once per round.

One file holds all that a resumed run needs; it is replaced atomically, so that a
run is always either before or after a round. `rounds.jsonl` is written from it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from common.errors import DataError
from common.files import write_text_atomically

STATE_FILE = Path("checkpoints") / "state.json"


class NodeState(BaseModel):
    """One node as of its last committed round."""

    model_config = ConfigDict(extra="forbid")

    node_id: str
    family: str
    num_train_samples: int
    num_private_test: int
    base_round: int = 0
    num_rounds: int = 0
    num_state_resets: int = 0
    arrays: list[str] = []
    """Digests of what the node has fetched, so that each counts once."""
    bytes_down: int = 0
    bytes_up: int = 0
    public_sample_bytes: int = 0
    evaluation_bytes: int = 0
    wire_bytes: int = 0
    fedavg_bytes: int = 0
    report: dict[str, Any] = {}
    """Figures of the last round: its line in `rounds.jsonl`."""
    closing: dict[str, Any] = {}
    """Control, latency and upload, once the run is over."""


class FederationState(BaseModel):
    """All that the coordinator knows after a round."""

    model_config = ConfigDict(extra="forbid")

    run_id: str
    round: int = 0
    num_resumes: int = 0
    wall_seconds: float = 0.0
    num_late: int = 0
    stopped_because: str = ""
    exchange: dict[str, Any] = {}
    """What the next round fetches, in schemes that change it: digests and counts."""
    nodes: dict[str, NodeState] = {}
    rounds: list[dict[str, Any]] = []


def commit_state(state: FederationState, run_dir: Path) -> None:
    """Writes the state and then `rounds.jsonl`, each atomically."""
    write_text_atomically(run_dir / STATE_FILE, state.model_dump_json(indent=1))
    lines = [json.dumps(line, sort_keys=True) + "\n" for line in state.rounds]
    write_text_atomically(run_dir / "rounds.jsonl", "".join(lines))


def load_state(run_dir: Path) -> FederationState:
    """Reads the last committed state.

    Raises:
        DataError: The folder is no run folder, or of another version.
    """
    path = run_dir / STATE_FILE
    try:
        return FederationState.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError:
        raise DataError(f"nothing to resume in {run_dir}: expected {STATE_FILE}") from None
    except ValueError as error:
        first = str(error).splitlines()[0]
        raise DataError(f"{path} does not fit this version: {first}") from None
