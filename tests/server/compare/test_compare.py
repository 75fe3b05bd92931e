"""Whole comparisons with real runs: finished, resumed, failed and interrupted."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from fedstill.common.errors import UsageError
from fedstill.server.compare import Comparison, Plan, PlannedRun, compare, make_plan
from fedstill.server.compare.folder import inspect_run, run_folder
from fedstill.server.compare.records import COMPARISON_FILE, read_comparison
from fedstill.server.run.summary import read_summary

pytestmark = pytest.mark.xdist_group("compare")  # what they share takes long to make

QUICK = ("teacher.num_epochs=2", "teacher.num_threads=1", "teacher.min_accuracy=0.0", "distill.num_epochs=1")
QUICK += ("federation.num_nodes=3", "federation.num_rounds=1", "federation.control_fraction=0.0")
QUICK += ("data.num_server=200", "data.num_public=100", "teacher.model=cnn-small")


@dataclass
class Watcher:
    """A display that remembers."""

    started: list[str] = field(default_factory=list)
    resumed: list[str] = field(default_factory=list)
    reasons: dict[str, str | None] = field(default_factory=dict)

    def start(self, run: PlannedRun, *, resumed: bool) -> None:
        (self.resumed if resumed else self.started).append(run.slug)

    def advance(self, run: PlannedRun, num_rounds: int) -> None:
        return

    def end(self, run: PlannedRun, run_dir: Path, reason: str | None) -> None:
        self.reasons[run.slug] = reason

    def close(self) -> None:
        return


def plan_quick(schemes: str, *, seeds: str = "0", sweeps: tuple[str, ...] = ()) -> Plan:
    return make_plan(None, schemes=schemes, seeds=seeds, sweeps=sweeps, overrides=QUICK)


@dataclass(frozen=True)
class Done:
    """A finished comparison."""

    plan: Plan
    folder: Path
    comparison: Comparison
    watcher: Watcher


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    plan = plan_quick("teacher,local", seeds="0,1")
    folder, watcher = tmp_path_factory.mktemp("comparison"), Watcher()
    return Done(plan, folder, compare(plan, output_dir=folder, display=watcher), watcher)


@pytest.mark.slow
def test_all_runs_finish_in_order(done: Done) -> None:
    assert done.watcher.started == [run.slug for run in done.plan.runs]
    assert done.comparison.is_sound
    assert [cell.num_finished for cell in done.comparison.cells] == [2, 2]


@pytest.mark.slow
def test_figures_are_those_of_the_summaries(done: Done) -> None:
    row = done.comparison.runs[0]
    fleet = read_summary(done.folder / row.run_dir).fleet

    assert row.figures is not None
    assert row.figures["accuracy"] == fleet.accuracy_mean
    assert row.figures["label_bytes"] == fleet.bytes_down + fleet.bytes_up
    assert row.figures["wire_bytes_actual"] == fleet.wire_bytes_actual


@pytest.mark.slow
def test_schemes_of_one_seed_share_partitions_and_evaluation_set(done: Done) -> None:
    teacher, local = (
        read_summary(run_folder(done.folder, f"{name}_seed=1")) for name in ("teacher", "local")
    )

    assert teacher.eval_set == local.eval_set
    assert [node.num_train_samples for node in teacher.nodes] == [
        node.num_train_samples for node in local.nodes
    ]


@pytest.mark.slow
def test_each_run_fetches_for_itself(done: Done) -> None:
    # With a cache in common, the second run of a seed would find the evaluation set in it.
    wire = {row.slug: row.figures["wire_bytes_actual"] for row in done.comparison.runs if row.figures}

    assert min(value or 0 for value in wire.values()) > 0


@pytest.mark.slow
def test_folder_holds_figures_page_and_nothing_of_the_caches(done: Done) -> None:
    assert read_comparison(done.folder) == done.comparison
    assert (done.folder / "comparison.html").stat().st_size > 10_000
    assert list((done.folder / "homes").iterdir()) == []


@pytest.mark.slow
def test_finished_runs_are_kept_and_unfinished_ones_resumed(done: Done) -> None:
    summaries = {run.slug: run_folder(done.folder, run.slug) / "summary.json" for run in done.plan.runs}
    before = {slug: path.stat().st_mtime_ns for slug, path in summaries.items()}
    summaries["local_seed=1"].unlink()
    watcher = Watcher()

    again = compare(done.plan, output_dir=done.folder, display=watcher)

    after = {slug: path.stat().st_mtime_ns for slug, path in summaries.items()}
    assert (watcher.started, watcher.resumed) == ([], ["local_seed=1"])
    assert {slug for slug in before if before[slug] != after[slug]} == {"local_seed=1"}
    assert [cell.figures["accuracy"] for cell in again.cells] == [
        cell.figures["accuracy"] for cell in done.comparison.cells
    ]


@pytest.mark.slow
def test_runs_of_another_configuration_are_not_overwritten(done: Done) -> None:
    other = make_plan(None, schemes="local", seeds="0", overrides=[*QUICK, "compress.bits=32"])

    with pytest.raises(UsageError, match=r"compress\.bits = 8, now asked for with 32"):
        compare(other, output_dir=done.folder, display=Watcher())


@pytest.mark.slow
def test_a_failed_run_does_not_stop_the_others(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        plan = plan_quick("local", sweeps=(f"exchange.port={port},0",))
        watcher = Watcher()
        comparison = compare(plan, output_dir=tmp_path / "out", display=watcher, jobs=1)

    failed, finished = plan.runs
    assert watcher.reasons[finished.slug] is None
    assert str(port) in (watcher.reasons[failed.slug] or "")
    assert "\n" not in (watcher.reasons[failed.slug] or "")
    assert [row.status for row in comparison.runs] == ["failed", "finished"]
    assert not comparison.is_sound


def launch(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    sets = [word for item in (*QUICK, *arguments) for word in ("--set", item)]
    command = [sys.executable, "-c", "from fedstill.server.cli import main; main()", "compare"]
    return subprocess.Popen(
        [*command, "--schemes", "teacher,local", "--seeds", "0,1", "--output-dir", str(folder), *sets],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Callable[[], bool], *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_interrupted_comparison_leaves_no_process(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    process = launch(folder, "teacher.num_epochs=5000", "teacher.patience=5000")
    try:
        wait_for(lambda: any((folder / "runs").glob("*/checkpoints/state.json")))
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()

    assert process.returncode == 130
    assert "interrupted" in errors
    assert children
    assert not any(child.is_running() for child in children)
    assert {row.status for row in read_comparison(folder).runs} == {"pending"}


@pytest.mark.parametrize("name", ["notes.txt", "comparison.json"])
def test_folder_that_holds_something_else_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")

    with pytest.raises(UsageError, match="choose an empty --output-dir"):
        compare(plan_quick("local"), output_dir=tmp_path, display=Watcher())

    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_mistake_leaves_no_folder_behind(tmp_path: Path) -> None:
    plan = make_plan(None, schemes="local", seeds="0", overrides=["data.source=nowhere"])

    with pytest.raises(UsageError, match="nowhere"):
        compare(plan, output_dir=tmp_path / "out", display=Watcher())

    assert not (tmp_path / "out").exists()


def test_a_folder_without_state_is_emptied_and_begun_anew(tmp_path: Path) -> None:
    run = plan_quick("local").runs[0]
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "state.json").write_text("{torn")

    assert inspect_run(tmp_path, run.config) == "nothing"


@pytest.mark.parametrize(("jobs", "grid"), [(0, "local"), (1, "clowd")])
def test_wrong_ways_to_run_are_named(tmp_path: Path, jobs: int, grid: str) -> None:
    with pytest.raises(UsageError, match=r"--jobs|clowd"):
        compare(plan_quick("local"), output_dir=tmp_path, display=Watcher(), jobs=jobs, grid_name=grid)


def test_cli_prints_the_comparison_as_json(
    write_comparison: Callable[..., Comparison],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fedstill.server.cli import run

    comparison = write_comparison({"local": {0: 0.5, 1: 0.6}, "teacher": {0: 0.9, 1: 0.9}})
    (tmp_path / COMPARISON_FILE).write_text(comparison.model_dump_json(by_alias=True))
    arguments = ["--schemes", "local,teacher", "--seeds", "0,1", "--output-dir", str(tmp_path), "--json"]
    monkeypatch.setattr(sys, "argv", ["fedstill", "compare", *arguments])

    code = run()

    document = json.loads(capsys.readouterr().out)
    assert code == 0
    assert document["cells"][1]["figures"]["accuracy"]["mean"] == pytest.approx(0.9)
