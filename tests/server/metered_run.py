"""The metrics of a run that is played to them, and what is read from their pages."""

from __future__ import annotations

import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from fedstill.server.metrics import RunMetrics
from fedstill.server.run.events import (
    LabelsPublished,
    NodeClosed,
    NodeReported,
    PhaseEnded,
    PhaseStarted,
    ReplyDropped,
    RoundClosed,
    RunStarted,
    TeacherReady,
    UploadRefused,
    Warned,
)


def report(
    node_id: str = "node-0000",
    *,
    family: str = "mlp",
    accuracy: float = 0.95,
    private: float | None = 0.9,
    round_number: int = 1,
) -> NodeReported:
    return NodeReported(
        round=round_number,
        node_id=node_id,
        family=family,
        accuracy=accuracy,
        fp32_accuracy=accuracy,
        private_accuracy=private,
        agreement_ratio=0.97,
        num_parameters=2182,
        fp32_bytes=9200,
        artefact_bytes=9300,
        bytes_down=1000,
        bytes_up=200,
        public_sample_bytes=5000,
        wire_bytes=700,
        phase_seconds={"fetch": 0.1, "train": 1.5, "export": 0.05, "evaluate": 0.2},
        distillation_loss=0.25,
        private_loss=1.5,
        state_reset=round_number > 1,
    )


def play_run(metrics: RunMetrics, *, num_nodes: int = 3) -> None:
    metrics(
        RunStarted("digits-1", "teacher", "digits", num_nodes, 3, "runs/digits-1", "lp8", 4.0, 0.9, 0.5, 60)
    )
    metrics(PhaseStarted("teacher", 40))
    metrics(TeacherReady(0.976, 0.98, 1_200_000, 4_800_000))
    metrics(PhaseEnded("teacher", 3.0))
    metrics(LabelsPublished(0, 1.25))
    metrics(PhaseStarted("round", num_nodes + 2, 1))
    for index in range(num_nodes):
        metrics(report(f"node-{index:04d}", accuracy=0.9 + index * 1e-6))
    metrics(ReplyDropped(1, "node-9999", "late"))
    metrics(ReplyDropped(1, "node-0001", "error"))
    metrics(RoundClosed(1, 0.951, num_nodes + 2, num_nodes, 2, 4.0, 0.025, {"timeout": 2}))
    metrics(PhaseEnded("round", 4.2, 1))
    metrics(UploadRefused("node-0001", "non_finite", "NaN"))
    metrics(NodeClosed("node-0000", 0.5, 0.9, 2e-5))
    metrics(Warned("the teacher is weak"))
    metrics.observe_call("FetchChunks", "OK", 0.02, 1_000_000)


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
