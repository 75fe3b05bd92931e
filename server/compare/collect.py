"""Puts the finished runs together: figures by cell, verdicts by column, and what has to be said first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean

import fedstill
from fedstill.common.config import Scalar
from fedstill.server.compare.columns import COLUMNS, read_figures
from fedstill.server.compare.folder import read_finished, run_folder
from fedstill.server.compare.plan import Plan, PlannedRun, describe_partitions
from fedstill.server.compare.records import Cell, Comparison, RunRow, Spread, Verdict
from fedstill.server.compare.statistics import sample_deviation
from fedstill.server.compare.verdicts import judge
from fedstill.server.run.summary import Summary

Partitions = tuple[tuple[str, Scalar], ...]


def collect(
    plan: Plan, output_dir: Path, *, failures: Mapping[str, str], grid_name: str, jobs: int
) -> Comparison:
    """Reads what the runs left and compares it.

    Args:
        plan: What was asked for.
        output_dir: The comparison's folder.
        failures: Why a run failed, by slug.
        grid_name: Grid of the runs.
        jobs: Runs side by side.

    Returns:
        The comparison as it stands; unfinished runs are pending and in no mean.
    """
    summaries = {}
    for run in plan.runs:
        summary = None if run.slug in failures else read_finished(run_folder(output_dir, run.slug))
        if summary is not None:
            summaries[run.slug] = summary
    rows = [_row(run, summaries.get(run.slug), failures.get(run.slug)) for run in plan.runs]
    groups = _group_partitions(plan)
    mismatches = list(_find_mismatches(plan, summaries, groups))
    cells = [_cell(name, rows, groups[name]) for name in groups]
    notes = list(_notes(plan, rows, summaries)) + [text for _, text in mismatches]
    verdicts = list(_verdicts(rows, groups, unsound={number for number, _ in mismatches}))
    return Comparison(
        version=fedstill.__version__,
        dataset=next(iter(summaries.values())).dataset if summaries else plan.base.data.source,
        command=plan.command,
        schemes=list(plan.schemes),
        seeds=list(plan.seeds),
        sweep={key: list(values) for key, values in plan.sweep.items()},
        grid=grid_name,
        jobs=jobs,
        cells=cells,
        verdicts=verdicts,
        runs=rows,
        notes=notes,
        is_sound=not failures and not mismatches,
    )


def _row(run: PlannedRun, summary: Summary | None, failure: str | None) -> RunRow:
    return RunRow(
        slug=run.slug,
        cell=run.cell,
        scheme=run.scheme,
        sweep=run.sweep,
        seed=run.seed,
        status="failed" if failure is not None else "pending" if summary is None else "finished",
        reason=failure,
        run_dir=run_folder(Path(), run.slug).as_posix(),
        figures=None if summary is None else read_figures(summary),
        round_accuracies=[] if summary is None else [entry.accuracy_mean for entry in summary.rounds],
    )


def _group_partitions(plan: Plan) -> dict[str, int]:
    numbers: dict[Partitions, int] = {}
    groups: dict[str, int] = {}
    for run in plan.runs:
        groups[run.cell] = numbers.setdefault(describe_partitions(run.config), len(numbers))
    return groups


def _find_mismatches(
    plan: Plan, summaries: Mapping[str, Summary], groups: Mapping[str, int]
) -> Iterator[tuple[int, str]]:
    first: dict[tuple[int, int], PlannedRun] = {}
    for run in plan.runs:
        if run.slug not in summaries:
            continue
        number = groups[run.cell]
        other = first.setdefault((number, run.seed), run)
        difference = _first_difference(summaries[other.slug], summaries[run.slug])
        if difference:
            yield (
                number,
                f"seed {run.seed}: {other.cell} and {run.cell} did not have the same data ({difference});"
                " nothing is marked among the runs that should share it",
            )


def _first_difference(first: Summary, second: Summary) -> str:
    if first.eval_set != second.eval_set:
        return "other evaluation sets"
    known = {node.node_id: node for node in first.nodes}
    for node in second.nodes:
        other = known.get(node.node_id, node)
        ours = (node.num_train_samples, node.num_private_test)
        theirs = (other.num_train_samples, other.num_private_test)
        if ours != theirs:
            sizes = f"{theirs[0]} and {ours[0]} samples to train, {theirs[1]} and {ours[1]} to test"
            return f"{node.node_id}: {sizes}"
    return ""


def _cell(name: str, rows: list[RunRow], partitions: int) -> Cell:
    mine = [row for row in rows if row.cell == name]
    figures = {}
    for column in COLUMNS:
        values = list(_values(mine, column).get(name, {}).values())
        if values:
            figures[column] = Spread(
                mean=fmean(values), deviation=sample_deviation(values), num_seeds=len(values)
            )
    return Cell(
        name=name,
        scheme=mine[0].scheme,
        sweep=mine[0].sweep,
        partitions=partitions,
        num_finished=sum(row.status == "finished" for row in mine),
        num_failed=sum(row.status == "failed" for row in mine),
        figures=figures,
    )


def _values(rows: list[RunRow], column: str) -> dict[str, dict[int, float]]:
    values: dict[str, dict[int, float]] = {}
    for row in rows:
        value = None if row.figures is None else row.figures.get(column)
        if value is not None:
            values.setdefault(row.cell, {})[row.seed] = value
    return values


def _verdicts(rows: list[RunRow], groups: Mapping[str, int], *, unsound: set[int]) -> Iterator[Verdict]:
    for number in sorted(set(groups.values()) - unsound):
        mine = [row for row in rows if groups[row.cell] == number]
        for name, column in COLUMNS.items():
            verdict = judge(name, column, _values(mine, name), partitions=number)
            if verdict is not None:
                yield verdict


def _notes(plan: Plan, rows: list[RunRow], summaries: Mapping[str, Summary]) -> Iterator[str]:
    for row in rows:
        if row.status == "failed":
            yield f"{row.cell}, seed {row.seed}, failed and is in no mean: {row.reason}"
        elif row.slug in summaries:
            rounds = summaries[row.slug].rounds
            num_dropped = sum(one.num_dropped for one in rounds)
            num_asked = sum(one.num_sampled for one in rounds)
            if num_dropped:
                yield (
                    f"{row.cell}, seed {row.seed}: {num_dropped} of {num_asked} answers were not used;"
                    f" runs/{row.slug}/log.jsonl says why."
                )
    pending = [row.slug for row in rows if row.status == "pending"]
    if pending:
        yield f"{len(pending)} of {len(rows)} runs are not finished; the same command goes on with them."
    if len(plan.seeds) == 1:
        yield "One seed has no spread, so nothing is marked as best; give two seeds or more."
    if plan.base.exchange.cache_dir:
        yield "The runs share exchange.cache_dir, so what crossed the wire depends on their order."
    versions = sorted({summary.version for summary in summaries.values()})
    if len(versions) > 1:
        yield f"The runs are of different versions: {', '.join(versions)}."
