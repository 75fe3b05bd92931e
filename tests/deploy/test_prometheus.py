"""The shipped configuration of Prometheus and Alertmanager, checked by their own tools."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"


@pytest.mark.parametrize(
    "command",
    [
        ["promtool", "check", "config", "prometheus.yml"],
        ["promtool", "check", "rules", "rules.yml", "alerts.yml"],
        ["promtool", "test", "rules", "tests/alerts.yml"],
        ["amtool", "check-config", "../alertmanager/alertmanager.yml"],
    ],
    ids=" ".join,
)
def test_the_tools_accept_what_is_shipped(command: list[str], require_program: Callable[[str], str]) -> None:
    program = require_program(command[0])
    done = subprocess.run(
        [program, *command[1:]], cwd=PROMETHEUS, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def alert_names() -> list[str]:
    return re.findall(r"- alert: (\w+)", (PROMETHEUS / "alerts.yml").read_text(encoding="utf-8"))


def test_every_alert_has_its_entry_in_the_runbook() -> None:
    runbook = (PROMETHEUS / "RUNBOOK.md").read_text(encoding="utf-8")
    linked = re.findall(r"runbook: RUNBOOK\.md#(\w+)", (PROMETHEUS / "alerts.yml").read_text())

    assert re.findall(r"^## (\w+)$", runbook, re.MULTILINE) == alert_names()
    assert linked == [name.lower() for name in alert_names()]


def test_every_alert_has_a_unit_test() -> None:
    tests = (PROMETHEUS / "tests" / "alerts.yml").read_text(encoding="utf-8")

    assert set(re.findall(r"alertname: (\w+)", tests)) == set(alert_names())
