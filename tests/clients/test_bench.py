"""`fedstill-node bench` writes a profile that the planner reads, on the base install too."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fedstill.clients import bench
from fedstill.clients.bench import (
    Budgets,
    find_runtimes,
    make_profile,
    measure_device,
    measure_disk,
    measure_memory,
)
from fedstill.clients.bench_training import time_steps
from fedstill.clients.cli import run
from fedstill.common.devices import load_profile
from fedstill.common.errors import UsageError


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> bench.Findings:
    return measure_device(tmp_path_factory.mktemp("home"))


def test_profile_holds_what_was_measured(findings: bench.Findings) -> None:
    profile = make_profile("shed", findings, Budgets(latency_seconds=0.02))
    assert profile.memory_bytes == findings.memory_bytes
    assert profile.speed.int8_macs_per_second == round(findings.host.int8_macs_per_second)
    assert profile.speed.source.startswith("measured by fedstill-node bench")
    assert profile.link is None


def test_budgets_that_are_given_win(findings: bench.Findings) -> None:
    profile = make_profile("shed", findings, Budgets(flash_bytes=20_000, memory_bytes=64_000))
    assert (profile.flash_bytes, profile.memory_bytes) == (20_000, 64_000)


def test_impossible_budget_is_refused(findings: bench.Findings) -> None:
    with pytest.raises(UsageError, match="less than or equal to 60"):
        make_profile("shed", findings, Budgets(latency_seconds=600))


def test_command_writes_a_profile_that_is_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, findings: bench.Findings
) -> None:
    monkeypatch.setattr(bench, "measure_device", lambda home: findings)
    path = tmp_path / "profile.toml"
    monkeypatch.setattr(
        sys, "argv", ["fedstill-node", "bench", "-o", str(path), "--name", "shed", "--link-bytes", "1e6"]
    )
    assert run() == 0
    profile = load_profile(str(path))
    assert profile.name == "shed"
    assert profile.link is not None
    assert profile.link.down_bytes_per_second == 1e6


def test_disk_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot measure the disk"):
        measure_disk(tmp_path / "file" / "below")


def test_memory_is_bounded_by_the_control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("123456\n")
    monkeypatch.setattr(bench, "_LIMITS", (tmp_path / "memory.max",))
    assert measure_memory() == 123_456


def test_step_is_left_out_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert bench.measure_step() is None
    assert "executorch" not in find_runtimes()


def test_steps_are_timed_one_by_one() -> None:
    seconds = time_steps(3)
    assert len(seconds) == 3
    assert all(0 < value < 5 for value in seconds)
