"""Compares schemes and settings: the same partitions, several seeds, and no winner that chance explains."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fedstill.common.config import to_toml
from fedstill.common.errors import UsageError
from fedstill.common.files import write_text_atomically
from fedstill.server.compare.collect import collect
from fedstill.server.compare.folder import check_folder, inspect_run, run_folder
from fedstill.server.compare.page import render_page
from fedstill.server.compare.plan import Plan, PlannedRun, check_plan, make_plan
from fedstill.server.compare.records import COMPARISON_FILE, Comparison, read_comparison
from fedstill.server.compare.running import Display, run_all
from fedstill.server.compare.terminal import make_display, print_comparison

__all__ = [
    "COMPARISON_FILE",
    "PAGE_FILE",
    "Comparison",
    "Plan",
    "PlannedRun",
    "compare",
    "default_output",
    "make_display",
    "make_plan",
    "print_comparison",
    "read_comparison",
    "write_page",
]

PAGE_FILE = "comparison.html"


def default_output(config_path: Path | None) -> Path:
    """Says where a comparison goes unless told otherwise: the same place for the same configuration."""
    return Path("runs") / f"compare-{config_path.stem if config_path else 'default'}"


def compare(
    plan: Plan, *, output_dir: Path, display: Display, jobs: int | None = None, grid_name: str = "local"
) -> Comparison:
    """Runs what is not finished yet of a comparison and writes its figures and its page.

    Args:
        plan: The runs.
        output_dir: Folder that the comparison fills or goes on in.
        display: Shows how far it is; the caller closes it.
        jobs: Runs side by side; None is as many as the cores carry with the configured
            threads on the local grid, and one on Ray, where each run takes all cores.
        grid_name: "local" or "ray".

    Returns:
        The comparison; `is_sound` is false where a run failed.

    Raises:
        UsageError: A configuration, the data or the folder is wrong; nothing was run.
        KeyboardInterrupt: It was stopped; the same call goes on from there.
    """
    if grid_name not in ("local", "ray"):
        raise UsageError(f"expected a grid of ray or local, got {grid_name!r}")
    if jobs is not None and jobs < 1:
        raise UsageError(f"--jobs: expected 1 or more, got {jobs}")
    output_dir = output_dir.resolve()
    check_folder(plan, output_dir)
    check_plan(plan)
    side_by_side = jobs or (_count_places(plan) if grid_name == "local" else 1)
    failures: dict[str, str] = {}

    def write() -> Comparison:
        comparison = collect(plan, output_dir, failures=failures, grid_name=grid_name, jobs=side_by_side)
        text = comparison.model_dump_json(by_alias=True, indent=1)
        write_text_atomically(output_dir / COMPARISON_FILE, text + "\n")
        return comparison

    def take(run: PlannedRun, reason: str | None) -> None:
        if reason is not None:
            failures[run.slug] = reason
        write()

    write()
    write_text_atomically(output_dir / "config.toml", to_toml(plan.base))
    unfinished = []
    for run in plan.runs:
        run_dir = run_folder(output_dir, run.slug)
        if inspect_run(run_dir, run.config) == "finished":
            display.end(run, run_dir, None)
        else:
            unfinished.append(run)
    run_all(
        unfinished,
        output_dir=output_dir,
        jobs=side_by_side,
        grid_name=grid_name,
        display=display,
        on_end=take,
    )
    comparison = write()
    write_page(comparison, output_dir)
    return comparison


def _count_places(plan: Plan) -> int:
    num_cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    # Threads that share a core spin for each other: two runs then take longer than one after the other.
    threads = max(
        max(run.config.teacher.num_threads, run.config.federation.threads_per_node) for run in plan.runs
    )
    return max(1, num_cores // threads)


def write_page(comparison: Comparison, output_dir: Path) -> Path:
    """Writes comparison.html, one self-contained file; the same figures give the same bytes."""
    path = output_dir / PAGE_FILE
    write_text_atomically(path, render_page(comparison))
    return path
