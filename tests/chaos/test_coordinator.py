"""A coordinator that is killed at any moment loses one round at most, and two never share a folder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from fedstill.server.run.state import STATE_FILE, load_state

# The long form is FEDSTILL_CHAOS_KILLS=50.
NUM_KILLS = int(os.environ.get("FEDSTILL_CHAOS_KILLS", "8"))
# Runs until one is still at work when it is to be killed.
NUM_ATTEMPTS = 10
SHARES = (
    {"ensemble": 0.75, "teacher": 0.25}
    if NUM_KILLS < 20
    else dict.fromkeys(("ensemble", "teacher", "co-teaching", "classwise", "prototypes"), 0.16)
    | {"weights": 0.2}
)
QUICK = (
    "teacher.num_epochs=8",
    "teacher.learning_rate=0.003",
    "teacher.num_threads=1",
    "distill.num_epochs=1",
    "federation.num_nodes=3",
    "federation.num_rounds=5",
    "federation.control_fraction=0.34",
    "data.num_public=100",
    "data.num_server=300",
    "monitoring.enabled=false",
)


def arguments(run_dir: Path, *overrides: str) -> list[str]:
    settings = [part for item in (*QUICK, *overrides) for part in ("--set", item)]
    return ["simulate", "--grid", "local", "--run-dir", str(run_dir), *settings]


def resuming(run_dir: Path) -> list[str]:
    return ["simulate", "--grid", "local", "--resume", str(run_dir)]


@dataclass(frozen=True)
class Uninterrupted:
    ending: dict[str, Any]
    seconds: float


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SHARES)
def test_killed_at_random_points_it_resumes_to_the_identical_ending(
    scheme: str,
    warm: Any,
    tmp_path: Path,
    ending: Callable[[Path], dict[str, Any]],
    whole: Callable[[Path], None],
) -> None:
    override = f"federation.scheme={scheme}"
    seconds = float("inf")
    for name in ("first", "whole"):  # the first traces graphs, which the home keeps, and takes longer
        begin = time.monotonic()
        assert warm.start(*arguments(tmp_path / name, override)).end() == 0
        seconds = min(seconds, time.monotonic() - begin)
    expected = ending(tmp_path / "whole")
    assert ending(tmp_path / "first") == expected
    num_expected = 5 + (scheme == "weights")
    assert len(expected["rounds"]) == num_expected

    num_kills = round(NUM_KILLS * SHARES[scheme])
    moments = (np.arange(num_kills) + np.random.default_rng(11).random(num_kills)) / num_kills
    for index, moment in enumerate(moments):
        for attempt in range(NUM_ATTEMPTS):
            run_dir = tmp_path / f"killed-{index}-{attempt}"
            begin = time.monotonic()
            life = warm.start(*arguments(run_dir, override))
            if not life.is_over(moment * seconds):
                break
            seconds = time.monotonic() - begin  # the machine has less else to do than before
        else:
            pytest.fail(f"{NUM_ATTEMPTS} runs were over before {moment:.0%} of the last one's time")
        life.kill()
        whole(run_dir)
        if not (run_dir / STATE_FILE).exists():
            again = warm.start(*resuming(run_dir))
            assert again.end() == 2
            assert "nothing to resume" in again.complaint()
            continue
        num_rounds = load_state(run_dir).round
        life = warm.start(*resuming(run_dir))
        assert life.end() == 0, life.log.read_text()
        # What was committed is not redone.
        assert life.log.read_text().count("\nround ") == num_expected - num_rounds
        assert ending(run_dir) == expected, f"killed {moment * seconds:.2f} s after its start"
        whole(run_dir)
        assert not list(run_dir.glob(".*"))
        assert not psutil.pid_exists(life.pid)


def test_a_second_coordinator_on_a_run_folder_is_refused_with_one_line(
    warm: Any, start_warm: Callable[[], Any], tmp_path: Path, patiently: Callable[..., None]
) -> None:
    run_dir = tmp_path / "run"
    long = ("federation.scheme=local", "federation.num_rounds=500")
    first = warm.start(*arguments(run_dir, *long))
    try:
        patiently((run_dir / STATE_FILE).exists, within_seconds=60, what="state")
        other = start_warm()
        second = other.start(*resuming(run_dir))
        assert second.end() == 2
        assert len(second.complaint().splitlines()) == 1
        assert f"process {first.pid}" in second.complaint()
        assert not first.is_over(0)
        third = other.start(*arguments(run_dir, *long))
        assert third.end() == 2
        # Before its first round the same command would go on with the run, were it not held.
        assert "holds a run already" in third.complaint() or f"process {first.pid}" in third.complaint()
    finally:
        first.kill()
    # The lock died with its holder: nothing has to be cleaned up.
    patiently(lambda: not psutil.pid_exists(first.pid), within_seconds=10, what="end")
    after = warm.start(*resuming(run_dir))
    assert not after.is_over(1.0), after.log.read_text()
    after.kill()
