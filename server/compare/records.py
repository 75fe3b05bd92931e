"""`comparison.json`: every run, the means over seeds, and what the spread allows to be said."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field

from fedstill.common.config import Scalar
from fedstill.common.errors import DataError
from fedstill.server.run.summary import Record

COMPARISON_FILE = "comparison.json"


class RunRow(Record):
    """One run; figures are null unless it is finished."""

    slug: str
    cell: str
    scheme: str
    sweep: dict[str, Scalar]
    seed: int
    status: Literal["finished", "failed", "pending"]
    reason: str | None = Field(description="why it failed: the last line that it wrote")
    run_dir: str = Field(description="relative to the comparison's folder")
    figures: dict[str, float | None] | None = Field(description="by column, as in the run's summary")
    round_accuracies: list[float | None] = Field(description="fleet mean on the evaluation set by round")


class Spread(Record):
    """One figure of one cell over its finished seeds."""

    mean: float
    deviation: float | None = Field(description="sample standard deviation; null for one seed")
    num_seeds: int


class Cell(Record):
    """One scheme with one value of each swept key, over the seeds."""

    name: str
    scheme: str
    sweep: dict[str, Scalar]
    partitions: int = Field(description="cells of one number share partitions, seed by seed")
    num_finished: int
    num_failed: int
    figures: dict[str, Spread] = Field(description="by column; a column without values is left out")


class Margin(Record):
    """How far the leading cell lies from another: leader − other over their common seeds."""

    cell: str
    mean: float
    low: float | None = Field(description="95 % t-interval of the paired differences; null for one seed")
    high: float | None
    num_seeds: int


class Verdict(Record):
    """What can be said of one column among cells that share partitions."""

    column: str
    partitions: int
    leader: str = Field(description="the cell with the best mean, which need not be best")
    best: str | None = Field(description="the cell that beats every other by more than the spread explains")
    tied: list[str] = Field(description="the leader and the cells that it does not beat")
    reason: str = Field(description="why nothing is marked; empty where something is")
    margins: list[Margin]


class Comparison(Record):
    """All of `comparison.json`."""

    schema_version: int = Field(1, alias="schema")
    version: str
    dataset: str
    command: str
    schemes: list[str]
    seeds: list[int]
    sweep: dict[str, list[Scalar]]
    grid: str
    jobs: int
    cells: list[Cell]
    verdicts: list[Verdict]
    runs: list[RunRow]
    notes: list[str] = Field(description="what a reader has to know before the figures")
    is_sound: bool = Field(description="no run failed and all schemes of a seed had the same partitions")

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


def read_comparison(folder: Path) -> Comparison:
    """Reads a comparison's figures.

    Args:
        folder: The comparison's folder.

    Returns:
        The validated comparison.

    Raises:
        DataError: The folder holds none, or one of another schema.
    """
    path = folder / COMPARISON_FILE
    try:
        return Comparison.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}); give the folder of a comparison") from None
    except ValueError as error:
        first = str(error).splitlines()[0]
        raise DataError(f"{path} does not fit this version's schema: {first}") from None
