"""A finished run as records: its summary, its rounds, its artefacts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fedstill.common.config import Config, load_config
from fedstill.common.errors import DataError, UsageError, near_name
from fedstill.common.prediction import OpenArtefact, open_artefact
from fedstill.server.run.records import RoundRecord
from fedstill.server.run.state import ROUNDS_FILE
from fedstill.server.run.summary import FleetSummary, NodeSummary, Summary, TeacherSummary, read_summary

if TYPE_CHECKING:
    import pandas as pd


class Frames(NamedTuple):
    """A run as pandas' frames."""

    nodes: pd.DataFrame
    """A row per node, with the figures of `summary.json`."""
    rounds: pd.DataFrame
    """A row per round and node, with the figures of `rounds.jsonl`."""


@dataclass(frozen=True)
class Run:
    """A finished run; `read_run` opens one, `simulate` returns one."""

    folder: Path
    """The run folder."""
    summary: Summary
    """All of `summary.json`."""

    @property
    def nodes(self) -> list[NodeSummary]:
        """What became of each node, sorted by name."""
        return self.summary.nodes

    @property
    def fleet(self) -> FleetSummary:
        """Figures of all nodes together."""
        return self.summary.fleet

    @property
    def teacher(self) -> TeacherSummary | None:
        """The teacher; None where the scheme has none."""
        return self.summary.teacher

    @property
    def report(self) -> Path:
        """The report, one HTML file."""
        return self.folder / "report.html"

    @cached_property
    def config(self) -> Config:
        """The configuration, every key."""
        return load_config(self.folder / "config.toml")

    @cached_property
    def rounds(self) -> list[RoundRecord]:
        """The rounds in order, each with its nodes' answers.

        Raises:
            DataError: `rounds.jsonl` is not there or damaged.
        """
        path = self.folder / ROUNDS_FILE
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            return [RoundRecord.model_validate_json(line) for line in lines]
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read {path}: {str(error).splitlines()[0]}") from None

    def artefact(self, node: str | NodeSummary, *, num_threads: int = 1) -> OpenArtefact:
        """Opens what a node's device would run.

        Args:
            node: Its name, or its entry in `nodes`.
            num_threads: Threads that run it.

        Raises:
            UsageError: No node of that name, or its artefact was not collected.
            ArtefactError: The artefact is incomplete or altered.
        """
        name = node if isinstance(node, str) else node.node_id
        found = {known.node_id: known for known in self.nodes}
        if name not in found:
            raise UsageError(f"run {self.summary.run_id} has no node {name!r}{near_name(name, found)}")
        path = found[name].artefact_path
        if path is None:
            raise UsageError(f"the artefact of {name} stayed on its device: it was not collected")
        return open_artefact(self.folder / path, num_threads=num_threads)

    def to_pandas(self) -> Frames:
        """Gives nodes and rounds as frames.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError:
            raise UsageError("frames need pandas: pip install pandas") from None
        nodes = pd.DataFrame([node.model_dump() for node in self.nodes])
        rounds = pd.DataFrame(
            [{"round": record.round, **node.to_line()} for record in self.rounds for node in record.nodes]
        )
        return Frames(nodes, rounds)

    def __repr__(self) -> str:
        """Says in a line what the run was and what it reached."""
        mean = self.fleet.accuracy_mean
        reached = "" if mean is None else f", accuracy {mean:.3f}"
        return f"<Run {self.summary.run_id}: {self.summary.scheme}, {len(self.nodes)} nodes{reached}>"


def read_run(folder: str | Path) -> Run:
    """Opens the folder of a finished run.

    Args:
        folder: The run folder, `runs/<run_id>`.

    Raises:
        DataError: It holds no finished run, or one of another version.
    """
    folder = Path(folder)
    return Run(folder, read_summary(folder))
