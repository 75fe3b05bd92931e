"""What the metrics of a run say of it, and that the catalogue lists them all."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from prometheus_client import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from fedstill.server.metrics import (
    CATALOGUE,
    NODE_METRICS,
    RUN_METRICS,
    MetricsEndpoint,
    RunMetrics,
    render_table,
    watch_actors,
    watch_certificates,
    watch_run_folder,
)
from fedstill.server.run.events import RoundClosed, TeacherReady
from fedstill.server.run.state import STATE_FILE
from tests.server.metered_run import get, play_run, report, samples

ROOT = Path(__file__).resolve().parents[3]


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


def test_what_an_event_tells_has_the_labels_that_the_event_gives() -> None:
    told = [metric for metric in CATALOGUE if metric.told is not None]

    assert len(told) > 25
    assert {metric.labels for metric in told if metric in RUN_METRICS} == {()}
    assert {metric.labels for metric in told if metric in NODE_METRICS} == {("node_id", "family")}


def test_what_an_event_does_not_know_is_nan_again(metrics: RunMetrics) -> None:
    metrics(TeacherReady(0.9, 0.9, 10, 40))
    metrics(TeacherReady(None, None, None, None))

    assert math.isnan(metrics.registry.get_sample_value("fedstill_teacher_bytes") or 0)


def test_a_round_that_evaluates_nothing_leaves_what_was_measured_last(
    metrics: RunMetrics, endpoint: MetricsEndpoint
) -> None:
    play_run(metrics)
    unmeasured = {"accuracy": None, "fp32_accuracy": None, "private_accuracy": None, "agreement_ratio": None}
    metrics(dataclasses.replace(report("node-0001", round_number=2), **unmeasured, artefact_bytes=0))
    metrics(RoundClosed(2, None, 1, 1, 0, 1.0, None))

    found = samples(get(f"http://{endpoint.address}/metrics"))
    of_nodes = samples(get(f"http://{endpoint.address}/metrics/nodes"))
    node = (("family", "mlp"), ("node_id", "node-0001"))
    assert found["fedstill_round", ()] == 2
    assert found["fedstill_fleet_accuracy_mean_ratio", ()] == 0.951
    assert found["fedstill_artefact_bytes_count", ()] == 3
    for name in ("accuracy_ratio", "private_accuracy_ratio", "model_bytes"):
        assert of_nodes[f"fedstill_node_{name}", node] > 0


def test_accuracy_is_not_zero_before_it_is_known(metrics: RunMetrics, endpoint: MetricsEndpoint) -> None:
    text = get(f"http://{endpoint.address}/metrics")

    assert "fedstill_fleet_accuracy_mean_ratio NaN" in text


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


def test_the_table_of_metrics_is_written_from_the_catalogue() -> None:
    table = (ROOT / "deploy" / "prometheus" / "METRICS.md").read_text(encoding="utf-8")

    assert table == render_table(), "run: python -m fedstill.server.metrics"


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
