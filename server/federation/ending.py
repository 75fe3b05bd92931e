"""The end of a run: controls and artefacts come in, then summary and report are written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from flwr.serverapp import Grid

from fedstill.server.analysis.flips import write_flips
from fedstill.server.analysis.resemblance import compare_models
from fedstill.server.federation.closing import close_run, release_nodes
from fedstill.server.federation.preparation import Prepared, Run, judge_teacher
from fedstill.server.federation.summarise import write_summary
from fedstill.server.labels.array_uploads import UPLOADS_DIR
from fedstill.server.report import write_report
from fedstill.server.rounds.parts import Federation
from fedstill.server.run.events import RunFinished, timed_phase


def end_run(
    grid: Grid, run: Run, prepared: Prepared, federation: Federation, *, commit: Callable[[], None]
) -> None:
    """Closes a run whose rounds are over, sums it up, and lets its nodes forget it.

    Args:
        grid: The grid that the nodes are on.
        run: The run.
        prepared: Its exchange and teacher.
        federation: Its parts.
        commit: Called once controls and artefacts are in.
    """
    if not run.state.is_closed:
        close_run(grid, federation, run_dir=run.run_dir)
        run.state.is_closed = True
        commit()
    shutil.rmtree(run.run_dir / UPLOADS_DIR, ignore_errors=True)  # all is aggregated
    with timed_phase(run.observe, "report"):
        _sum_up(run, prepared)
        report_path = write_report(run.run_dir)
    release_nodes(grid, federation)
    run.observe(RunFinished(str(run.run_dir), str(report_path)))


def _sum_up(run: Run, prepared: Prepared) -> Path:
    facts = prepared.teacher
    if facts is not None and run.state.exchange.teacher_file is not None:
        _, facts = judge_teacher(run, prepared.exchange, prepared.truth)
    write_flips(run.run_dir, run.config, run.state, prepared.exchange)
    return write_summary(
        run.run_dir,
        run.config,
        run.state,
        dataset=prepared.exchange.dataset.name,
        evaluation_digest=prepared.exchange.publication.evaluation_digest.hex(),
        num_evaluation_samples=len(prepared.truth.evaluation_S),
        teacher=facts,
        quality=compare_models(run.run_dir, run.config, run.state, prepared.exchange, observe=run.observe),
    )
