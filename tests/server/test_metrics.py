"""The two pages of metrics, read by promtool and by a real Prometheus."""

from __future__ import annotations

import json
import re
import socket
import statistics
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from common.errors import UsageError
from server.events import (
    NodeClosed,
    NodeReported,
    PhaseEnded,
    PhaseStarted,
    ReplyDropped,
    RoundClosed,
    RunFinished,
    RunStarted,
    TeacherReady,
    Warned,
)
from server.metrics import MetricsEndpoint, RunMetrics

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
    )


def play_run(metrics: RunMetrics, *, num_nodes: int = 3) -> None:
    metrics(RunStarted("digits-1", "teacher", "digits", num_nodes, 3, "runs/digits-1"))
    metrics(PhaseStarted("teacher", 40))
    metrics(TeacherReady(0.976, 0.98, 1_200_000, 4_800_000))
    metrics(PhaseEnded("teacher", 3.0))
    metrics(PhaseStarted("round", num_nodes, 1))
    for index in range(num_nodes):
        metrics(report(f"node-{index:04d}", accuracy=0.9 + index * 1e-6))
    metrics(ReplyDropped(1, "node-9999", "late"))
    metrics(RoundClosed(1, 0.951, num_nodes + 1, num_nodes, 1, 4.2, 0.025))
    metrics(PhaseEnded("round", 4.2, 1))
    metrics(NodeClosed("node-0000", 0.5, 0.9, 2e-5))
    metrics(Warned("the teacher is weak"))
    metrics(RunFinished("runs/digits-1", "runs/digits-1/report.html"))
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
    return RunMetrics(max_node_series=10_000)


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
        ("fedstill_nodes_sampled_total", ()): 4,
        ("fedstill_nodes_replied_total", ()): 3,
        ("fedstill_nodes_dropped_total", (("reason", "late"),)): 1,
        ("fedstill_down_bytes_total", ()): 3000,
        ("fedstill_up_bytes_total", ()): 600,
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def prometheus(
    endpoint: MetricsEndpoint, tmp_path: Path, require_program: Callable[[str], str]
) -> Iterator[str]:
    program = require_program("prometheus")
    shipped = (ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    (tmp_path / "prometheus.yml").write_text(re.sub(r"(_interval): \d+s", r"\1: 1s", shipped))
    (tmp_path / "targets.json").write_text(json.dumps([{"targets": [endpoint.address]}]))
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [
            program,
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'tsdb'}",
            f"--web.listen-address={address}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield f"http://{address}"
    process.terminate()
    process.wait(timeout=30)


def wait_for_data(prometheus: str, query: str) -> list[dict[str, object]]:
    url = f"{prometheus}/api/v1/query?query={urllib.parse.quote(query)}"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            result = json.loads(get(url))["data"]["result"]
        except OSError:
            result = []
        if result:
            return list(result)
        time.sleep(0.1)
    return []


def test_a_real_prometheus_scrapes_both_pages(metrics: RunMetrics, prometheus: str) -> None:
    play_run(metrics)

    by_node = wait_for_data(prometheus, "min by (node_id) (fedstill_node_accuracy_ratio)")
    slowest = wait_for_data(
        prometheus, "histogram_quantile(0.9, sum by (le, phase) (fedstill_phase_seconds_bucket))"
    )
    targets = wait_for_data(prometheus, "min(up) == 1")

    assert {series["metric"]["node_id"] for series in by_node} == {"node-0000", "node-0001", "node-0002"}  # type: ignore[index]
    assert {series["metric"]["phase"] for series in slowest} >= {"train", "round"}  # type: ignore[index]
    assert targets
