"""The two pages of metrics, read by promtool and by a real Prometheus."""

from __future__ import annotations

import json
import math
import os
import re
import socket
import statistics
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from prometheus_client import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from common.errors import UsageError
from server.checkpoints import STATE_FILE
from server.events import (
    LabelsPublished,
    NodeBudgeted,
    NodeClosed,
    NodeLeft,
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
from server.metrics import (
    CATALOGUE,
    MetricsEndpoint,
    RunMetrics,
    render_table,
    watch_actors,
    watch_certificates,
    watch_run_folder,
)

ROOT = Path(__file__).resolve().parents[2]


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


@pytest.fixture
def metrics() -> RunMetrics:
    return RunMetrics(max_node_series=10_000, run_id="digits-1", clock=lambda: 1000.0)


@pytest.fixture
def endpoint(metrics: RunMetrics) -> Iterator[MetricsEndpoint]:
    endpoint = MetricsEndpoint(metrics, host="127.0.0.1", port=0)
    endpoint.start()
    yield endpoint
    endpoint.stop()


def test_aggregates_follow_the_events(metrics: RunMetrics, endpoint: MetricsEndpoint) -> None:
    play_run(metrics)

    found = samples(get(f"http://{endpoint.address}/metrics"))

    run = (("dataset", "digits"), ("run_id", "digits-1"), ("scheme", "teacher"))
    expected = {
        ("fedstill_run_info", run): 1,
        ("fedstill_round", ()): 1,
        ("fedstill_phase_active", (("phase", "round"),)): 0,
        ("fedstill_teacher_accuracy_ratio", ()): 0.976,
        ("fedstill_fleet_accuracy_mean_ratio", ()): 0.951,
        ("fedstill_fleet_gap_ratio", ()): 0.025,
        ("fedstill_nodes_selected_total", ()): 5,
        ("fedstill_nodes_replied_total", ()): 3,
        ("fedstill_nodes_dropped_total", (("reason", "late"),)): 1,
        ("fedstill_nodes_dropped_total", (("reason", "error"),)): 1,
        ("fedstill_nodes_dropped_total", (("reason", "unanswered"),)): 1,
        ("fedstill_nodes_rested_total", (("reason", "timeout"),)): 2,
        ("fedstill_uploads_refused_total", (("reason", "non_finite"),)): 1,
        ("fedstill_uploads_refused_total", (("reason", "damaged"),)): 0,
        ("fedstill_round_selected_nodes", ()): 5,
        ("fedstill_closed_round_quorum_nodes", ()): 3,
        ("fedstill_closed_round_replied_nodes", ()): 3,
        ("fedstill_expected_end_timestamp_seconds", ()): 1000 + 2 * 4.0,
        ("fedstill_temperature", ()): 4.0,
        ("fedstill_lambda_ratio", ()): 0.9,
        ("fedstill_label_entropy_nats", ()): 1.25,
        ("fedstill_distillation_loss", (("family", "mlp"),)): 0.25,
        ("fedstill_private_loss", (("family", "mlp"),)): 1.5,
        ("fedstill_down_bytes_total", (("codec", "lp8"),)): 3000,
        ("fedstill_up_bytes_total", (("codec", "lp8"),)): 600,
        ("fedstill_public_sample_bytes_total", ()): 15_000,
        ("fedstill_wire_bytes_total", ()): 2100,
        ("fedstill_phase_seconds_sum", (("phase", "teacher"), ("side", "coordinator"))): 3.0,
        ("fedstill_phase_seconds_sum", (("phase", "train"), ("side", "node"))): 4.5,
        ("fedstill_artefact_bytes_count", ()): 3,
        ("fedstill_grpc_calls_total", (("code", "OK"), ("method", "FetchChunks"))): 1,
        ("fedstill_grpc_bytes_total", (("method", "FetchChunks"),)): 1_000_000,
        ("fedstill_warnings_total", ()): 1,
    }
    assert {key: found.get(key) for key in expected} == expected


def test_accuracy_is_not_zero_before_it_is_known(metrics: RunMetrics, endpoint: MetricsEndpoint) -> None:
    text = get(f"http://{endpoint.address}/metrics")

    assert "fedstill_fleet_accuracy_mean_ratio NaN" in text


def test_node_gauges_hold_the_newest_report(metrics: RunMetrics) -> None:
    metrics(report("node-0001", accuracy=0.5, round_number=1))
    metrics(report("node-0001", accuracy=0.75, round_number=2))

    found = samples(metrics.render_nodes().decode())

    labels = (("family", "mlp"), ("node_id", "node-0001"))
    assert {name: value for (name, key), value in found.items() if key == labels} == {
        "fedstill_node_accuracy_ratio": 0.75,
        "fedstill_node_private_accuracy_ratio": 0.9,
        "fedstill_node_model_bytes": 9300,
        "fedstill_node_fp32_bytes": 9200,
        "fedstill_node_agreement_ratio": 0.97,
        "fedstill_node_last_round": 2,
        "fedstill_node_last_seen_timestamp_seconds": 1000,
        "fedstill_node_drops_total": 0,
    }


def test_an_unknown_private_accuracy_has_no_series(metrics: RunMetrics) -> None:
    metrics(report(private=None))

    names = {name for name, _ in samples(metrics.render_nodes().decode())}

    assert "fedstill_node_private_accuracy_ratio" not in names
    assert "fedstill_node_accuracy_ratio" in names


def test_node_labels_are_escaped(metrics: RunMetrics) -> None:
    metrics(report('a"b\\c\nd', family="x"))

    keys = {labels for _, labels in samples(metrics.render_nodes().decode())}

    assert keys == {(("family", "x"), ("node_id", 'a"b\\c\nd'))}


def test_nodes_past_the_bound_are_counted_not_shown() -> None:
    metrics = RunMetrics(max_node_series=2)
    for index in range(5):
        metrics(report(f"node-{index:04d}"))

    shown = {dict(labels)["node_id"] for _, labels in samples(metrics.render_nodes().decode())}

    assert shown == {"node-0000", "node-0001"}
    assert metrics.registry.get_sample_value("fedstill_nodes_without_series") == 3


def test_a_forgotten_node_makes_room_for_another() -> None:
    metrics = RunMetrics(max_node_series=1)
    metrics(report("node-0000"))
    metrics(report("node-0001"))
    metrics.forget_node("node-0000")
    metrics(report("node-0001"))

    shown = {dict(labels)["node_id"] for _, labels in samples(metrics.render_nodes().decode())}

    assert shown == {"node-0001"}
    assert metrics.registry.get_sample_value("fedstill_nodes_without_series") == 0


def test_a_node_that_left_counts_no_longer(metrics: RunMetrics) -> None:
    play_run(metrics)
    metrics(report("node-0000", accuracy=0.1))
    metrics(NodeLeft("node-0000"))
    metrics(RoundClosed(2, 0.9, 2, 2, 0, 4.0, None))

    lowest = {"family": "mlp", "percentile": "5"}
    found = metrics.registry.get_sample_value("fedstill_fleet_accuracy_ratio", lowest)

    assert b"node-0000" not in metrics.render_nodes()
    assert found is not None
    assert found > 0.9


def test_percentiles_are_by_family_and_over_all(metrics: RunMetrics) -> None:
    for index, accuracy in enumerate((0.5, 0.7, 0.9)):
        metrics(report(f"node-{index:04d}", family="mlp" if index else "cnn", accuracy=accuracy))
    metrics(RoundClosed(1, 0.7, 3, 3, 0, 4.0, None))

    def median(family: str) -> float | None:
        labels = {"family": family, "percentile": "50"}
        return metrics.registry.get_sample_value("fedstill_fleet_accuracy_ratio", labels)

    assert [median(family) for family in ("cnn", "mlp", "all")] == [0.5, pytest.approx(0.8), 0.7]


def test_budget_latency_and_drops_stand_beside_the_report(metrics: RunMetrics) -> None:
    metrics(NodeBudgeted("node-0001", 8000, None))
    metrics(ReplyDropped(1, "node-0001", "error"))
    metrics(report("node-0001"))
    metrics(NodeClosed("node-0001", None, None, 2e-5))

    found = {name: value for (name, _), value in samples(metrics.render_nodes().decode()).items()}

    assert found["fedstill_node_budget_bytes"] == 8000
    assert "fedstill_node_budget_latency_seconds" not in found
    assert found["fedstill_node_latency_seconds"] == 2e-5
    assert found["fedstill_node_drops_total"] == 1


def test_a_node_whose_family_is_unknown_is_not_shown(metrics: RunMetrics) -> None:
    metrics(ReplyDropped(1, "node-0001", "error"))

    assert b"node-0001" not in metrics.render_nodes()


def test_last_values_stay_readable_as_openmetrics(metrics: RunMetrics, tmp_path: Path) -> None:
    play_run(metrics)
    metrics.write(tmp_path / "metrics.txt")

    text = (tmp_path / "metrics.txt").read_text(encoding="utf-8")
    found = {
        sample.name: sample.value
        for family in parse_openmetrics(text)
        for sample in family.samples
        if sample.labels.get("node_id", "node-0002") == "node-0002"
    }

    assert found["fedstill_fleet_gap_ratio"] == 0.025
    assert found["fedstill_node_model_bytes"] == 9300
    assert found["fedstill_node_drops_total"] == 0


def test_checkpoint_and_disk_are_read_at_each_scrape(metrics: RunMetrics, tmp_path: Path) -> None:
    watch_run_folder(metrics, tmp_path)
    value = metrics.registry.get_sample_value
    before = value("fedstill_checkpoint_timestamp_seconds")
    state = tmp_path / STATE_FILE
    state.parent.mkdir()
    state.write_text("{}")
    os.utime(state, (500, 500))

    assert before is not None
    assert math.isnan(before)
    assert value("fedstill_checkpoint_timestamp_seconds") == 500
    assert value("fedstill_checkpoint_bytes") == 2
    assert 0 < (value("fedstill_disk_free_bytes") or 0) <= (value("fedstill_disk_size_bytes") or 0)


def make_certificate(path: Path, *, expiry: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(expiry - timedelta(days=90)).not_valid_after(expiry)
    path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def test_certificates_are_read_and_keys_passed_over(metrics: RunMetrics, tmp_path: Path) -> None:
    expiry = datetime(2030, 1, 2, tzinfo=UTC)
    make_certificate(tmp_path / "server.pem", expiry=expiry)
    (tmp_path / "server-key.pem").write_text("no certificate")
    watch_certificates(metrics, tmp_path)

    name = "fedstill_certificate_expiry_timestamp_seconds"
    found = metrics.registry.get_sample_value(name, {"certificate": "server.pem"})

    assert found == expiry.timestamp()
    assert metrics.registry.get_sample_value(name, {"certificate": "server-key.pem"}) is None


def test_a_grid_with_actors_shows_them(metrics: RunMetrics) -> None:
    watch_actors(metrics, SimpleNamespace(num_actors=2, num_restarts=1))
    watch_actors(metrics, object())

    assert metrics.registry.get_sample_value("fedstill_actors") == 2
    assert metrics.registry.get_sample_value("fedstill_actor_restarts") == 1


def test_an_endpoint_is_discovered_while_it_serves(metrics: RunMetrics, tmp_path: Path) -> None:
    endpoint = MetricsEndpoint(metrics, host="127.0.0.1", port=0, targets_dir=tmp_path / "targets")
    endpoint.start()
    by_file = json.loads((tmp_path / "targets" / "digits-1.json").read_text())
    by_http = json.loads(get(f"http://{endpoint.address}/targets"))
    endpoint.stop()

    assert by_file == by_http == [{"targets": [endpoint.address], "labels": {"run_id": "digits-1"}}]
    assert list((tmp_path / "targets").iterdir()) == []


def test_the_table_of_metrics_is_written_from_the_catalogue() -> None:
    table = (ROOT / "deploy" / "prometheus" / "METRICS.md").read_text(encoding="utf-8")

    assert table == render_table(), "run: python -m server.metrics"


def test_every_metric_of_the_table_is_exported_and_no_other(metrics: RunMetrics, tmp_path: Path) -> None:
    watch_certificates(metrics, tmp_path)
    play_run(metrics)
    aggregates = generate_latest(metrics.registry).decode()
    exported = set()
    for text in (aggregates, metrics.render_nodes().decode()):
        for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
            # The plain format has no type for infos, and gives creation times families of their own.
            if not name.endswith("_created"):
                exported.add((name, "info" if name.endswith("_info") else kind))

    assert exported == {(metric.full_name, metric.kind) for metric in CATALOGUE}


def test_invented_methods_do_not_grow_the_page(metrics: RunMetrics) -> None:
    for index in range(1000):
        metrics.observe_call(f"Guess{index}", "UNIMPLEMENTED", 0.0, 0)

    found = metrics.registry.get_sample_value(
        "fedstill_grpc_calls_total", {"method": "other", "code": "UNIMPLEMENTED"}
    )

    assert found == 1000 - 32


def test_ten_thousand_nodes_render_within_a_tenth_of_a_second(metrics: RunMetrics) -> None:
    for index in range(10_000):
        metrics(report(f"node-{index:04d}", accuracy=0.9 + index * 1e-6))
    seconds = []
    for _ in range(5):
        started = time.process_time()
        metrics.render_nodes()
        seconds.append(time.process_time() - started)

    assert statistics.median(seconds) <= 0.1


@pytest.mark.parametrize("page", ["/metrics", "/metrics/nodes"])
@pytest.mark.parametrize("played", [True, False])
def test_promtool_has_nothing_to_say(
    page: str,
    played: bool,
    metrics: RunMetrics,
    endpoint: MetricsEndpoint,
    require_program: Callable[[str], str],
) -> None:
    promtool = require_program("promtool")
    if played:
        play_run(metrics)

    checked = subprocess.run(
        [promtool, "check", "metrics"],
        input=get(f"http://{endpoint.address}{page}"),
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_other_paths_are_not_found(endpoint: MetricsEndpoint) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(f"http://{endpoint.address}/secrets")

    assert caught.value.code == 404
    caught.value.close()


def test_a_taken_port_is_a_usage_error_with_the_remedy(
    endpoint: MetricsEndpoint, metrics: RunMetrics
) -> None:
    port = int(endpoint.address.rsplit(":", 1)[1])

    with pytest.raises(UsageError, match=rf"127.0.0.1:{port} is taken; .* 0 for a free one"):
        MetricsEndpoint(metrics, host="127.0.0.1", port=port).start()


def test_a_stopped_endpoint_frees_its_port(metrics: RunMetrics) -> None:
    first = MetricsEndpoint(metrics, host="127.0.0.1", port=0)
    first.start()
    port = int(first.address.rsplit(":", 1)[1])
    first.stop()
    first.stop()

    second = MetricsEndpoint(metrics, host="127.0.0.1", port=port)
    second.start()
    second.stop()


def test_a_scraper_that_hangs_up_makes_no_noise(
    metrics: RunMetrics, endpoint: MetricsEndpoint, capfd: pytest.CaptureFixture[str]
) -> None:
    host, port = endpoint.address.split(":")
    for _ in range(3):
        with socket.create_connection((host, int(port))) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            connection.sendall(b"GET /metrics/nodes HTTP/1.1\r\n\r\n")
    get(f"http://{endpoint.address}/metrics")

    assert capfd.readouterr() == ("", "")
