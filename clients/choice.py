"""What a node chose for itself in a round of adaptive distillation, and where it keeps that."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from fedstill.common.files import write_text_atomically
from fedstill.protos.fedstill.v1 import fleet_pb2

CHOICE_FILE = "choice.json"


@dataclass(frozen=True)
class Choice:
    """One round's choice; accuracies are ratios on the node's own validation part, shrunk."""

    temperature: float
    distill_lambda: float
    num_steps: int
    """Step whose weights were kept."""
    public_share: float
    """Weight of equal classes against the node's own class frequencies in the student's answers, (0, 1]."""
    own_accuracy: float
    alone_accuracy: float
    """What private data alone reach: the floor that the choice guards."""
    num_validation: int
    num_trial_steps: int
    """Steps that were spent on trials, beside those of the kept student."""
    why: str


def choice_to_proto(choice: Choice) -> fleet_pb2.Choice:
    """Writes a choice into a report."""
    return fleet_pb2.Choice(**asdict(choice))


def write_choice(folder: Path, choice: Choice) -> None:
    """Keeps a round's choice beside the round's student."""
    write_text_atomically(folder / CHOICE_FILE, json.dumps(asdict(choice)) + "\n")


def read_choice(folder: Path) -> Choice | None:
    """Reads a round's choice; None where there was none or the file is damaged."""
    try:
        return Choice(**json.loads((folder / CHOICE_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
