"""The two pages of metrics as they are served: promtool reads them, Prometheus finds them."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.error
from collections.abc import Callable
from pathlib import Path

import pytest

from fedstill.common.errors import UsageError
from fedstill.server.metrics import MetricsEndpoint, RunMetrics
from tests.server.metered_run import get, play_run


def test_an_endpoint_is_discovered_while_it_serves(metrics: RunMetrics, tmp_path: Path) -> None:
    endpoint = MetricsEndpoint(metrics, host="127.0.0.1", port=0, targets_dir=tmp_path / "targets")
    endpoint.start()
    by_file = json.loads((tmp_path / "targets" / "digits-1.json").read_text())
    by_http = json.loads(get(f"http://{endpoint.address}/targets"))
    endpoint.stop()

    assert by_file == by_http == [{"targets": [endpoint.address], "labels": {"run_id": "digits-1"}}]
    assert list((tmp_path / "targets").iterdir()) == []


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
