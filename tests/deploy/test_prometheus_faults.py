"""Faults are injected into a coordinator's metrics; a real Prometheus raises each alert in time."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedstill.server.metrics import MetricsEndpoint, RunMetrics, watch_certificates, watch_run_folder
from fedstill.server.pki.authority import init_authority
from fedstill.server.run.events import (
    NodeBudgeted,
    NodeReported,
    PhaseStarted,
    ReplyDropped,
    RoundClosed,
    RunStarted,
    UploadRefused,
)
from fedstill.server.run.state import STATE_FILE

INTERVAL_SECONDS = 1.0
# A fault waits for the next scrape; the alert has two evaluations from then on.
ALLOWED_SECONDS = 3 * INTERVAL_SECONDS


class Coordinator:
    """Metrics of a sound run, and what can go wrong with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now: float | None = None
        self.disk = shutil.disk_usage(folder)._replace(total=10**12, free=10**11)
        self.metrics = RunMetrics(max_node_series=10, clock=lambda: self.now or time.time())
        (folder / STATE_FILE).parent.mkdir(parents=True)
        (folder / "certificates").mkdir()
        (folder / STATE_FILE).write_text("{}")
        watch_run_folder(self.metrics, folder, disk_usage=lambda _: self.disk)
        watch_certificates(self.metrics, folder / "certificates")
        self.metrics(RunStarted("r", "teacher", "digits", 4, 9, str(folder), quorum=1.0))
        self.metrics(NodeBudgeted("node-0000", 9000, None))
        self.play_round(1)

    def play_round(
        self, number: int, *, accuracy: float = 0.9, size: int = 9000, num_replied: int = 4
    ) -> None:
        self.metrics(PhaseStarted("round", 4, number))
        self.report(number, accuracy=accuracy, size=size)
        self.metrics(RoundClosed(number, accuracy, 4, num_replied, 4 - num_replied, 1.0, 0.01))

    def report(self, number: int, *, accuracy: float = 0.9, size: int = 9000) -> None:
        self.metrics(
            NodeReported(
                round=number,
                node_id="node-0000",
                family="mlp",
                accuracy=accuracy,
                fp32_accuracy=accuracy,
                private_accuracy=None,
                agreement_ratio=None,
                num_parameters=1,
                fp32_bytes=1,
                artefact_bytes=size,
                bytes_down=1,
                bytes_up=1,
                public_sample_bytes=1,
                wire_bytes=1,
                phase_seconds={},
            )
        )

    def stall(self) -> None:
        self.now = time.time() - 7200
        self.metrics(PhaseStarted("round", 4, 5))
        self.now = None

    def expire(self) -> None:
        init_authority(self.folder / "certificates", days=3)

    def flap(self) -> None:
        for _ in range(3):
            self.metrics(ReplyDropped(5, "node-0000", "error"))
            self.report(5)
            time.sleep(1.5 * INTERVAL_SECONDS)
        self.metrics(ReplyDropped(5, "node-0000", "error"))
        self.report(5)

    def fill_disk(self) -> None:
        self.disk = SimpleNamespace(free=10**6, total=10**12)  # type: ignore[assignment]


FAULTS: dict[str, Any] = {
    "NaNUploads": lambda run: run.metrics(UploadRefused("node-0000", "non_finite", "NaN")),
    "QuorumAtRisk": lambda run: run.play_round(2, num_replied=3),
    "AccuracyRegression": lambda run: run.play_round(3, accuracy=0.7),
    "StudentOverBudget": lambda run: run.play_round(4, size=9001),
    "NodeFlapping": Coordinator.flap,
    "CertificateExpiring": Coordinator.expire,
    "DiskLow": Coordinator.fill_disk,
    "CheckpointStale": lambda run: os.utime(run.folder / STATE_FILE, (1, 1)),
    "RoundStalled": Coordinator.stall,
}


@pytest.fixture(scope="module")
def coordinator(prometheus: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    run = Coordinator(tmp_path_factory.mktemp("faults"))
    endpoint = MetricsEndpoint(run.metrics, host="127.0.0.1", port=0, targets_dir=prometheus.targets_dir)
    endpoint.start()
    # Two scrapes of a sound run come first: an increase needs a sample before it.
    assert prometheus.wait_for("count_over_time(fedstill_node_drops_total[1m]) >= 2")
    assert prometheus.wait_for("count_over_time(fedstill_round[1m]) >= 2")
    yield run
    endpoint.stop()


@pytest.mark.parametrize("alert", FAULTS)
def test_a_fault_raises_its_alert_within_two_evaluations(
    alert: str, coordinator: Coordinator, prometheus: Any
) -> None:
    firing = f'ALERTS{{alertname="{alert}", alertstate="firing"}}'
    before = prometheus.query(firing)
    FAULTS[alert](coordinator)
    injected = time.time()

    assert before == []
    assert prometheus.wait_for(firing)
    [began] = {
        datetime.fromisoformat(item["activeAt"][:19] + "+00:00").timestamp()
        for item in prometheus.get("alerts")["alerts"]
        if item["labels"]["alertname"] == alert
    }
    assert began - injected <= ALLOWED_SECONDS
