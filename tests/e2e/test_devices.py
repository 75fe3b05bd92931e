"""Devices with data of their own, on a real SuperLink: `fedstill coordinator` and `fedstill-node run`."""

from __future__ import annotations

import json
import subprocess
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedstill.server.pki.authority import init_authority
from tests.deployment import BIN, coordinator, find_run, free_port, start_devices, started

pytestmark = [pytest.mark.slow, pytest.mark.deployment, pytest.mark.xdist_group("deployment-1")]


def fedstill(folder: Path, *words: object) -> None:
    subprocess.run([str(BIN / "fedstill"), *map(str, words)], cwd=folder, check=True)


def enrol(folder: Path, port: int) -> None:
    fedstill(folder, "certs", "init")
    for name in ("a", "b", "removed"):
        data = folder / ("a.npz" if name == "removed" else f"{name}.npz")
        words = [f"device-{name}", "--superlink", f"127.0.0.1:{port}", "--data", data]
        fedstill(folder, "fleet", "add", *words, "--output", f"device-{name}")
    fedstill(folder, "fleet", "remove", "device-removed")


def check_summary(folder: Path) -> None:
    nodes = json.loads((find_run(folder) / "summary.json").read_text())["nodes"]
    assert [node["node_id"] for node in nodes] == ["device-a", "device-b"]
    assert [node["num_train_samples"] for node in nodes] == [140, 140]
    assert [node["num_rounds"] for node in nodes] == [2, 2]
    assert min(node["accuracy"] for node in nodes) > 0.5


@pytest.mark.timeout(500)
def test_from_certificates_to_a_federation_that_trusts_nothing_else(
    site: dict[str, str], tmp_path: Path
) -> None:
    port, log = free_port(), tmp_path / "coordinator.log"
    enrol(tmp_path, port)
    with ExitStack() as stack:
        command = [*coordinator(tmp_path, port), "--certificates", "certificates"]
        for setting in ("monitoring.enabled=true", "federation.scheme=ensemble", "distill.num_epochs=20"):
            command += ["--set", setting]
        process = stack.enter_context(started(command, site, log))
        start_devices(stack, tmp_path, site)
        assert process.wait(440) == 0, log.read_text()
    check_summary(tmp_path)
    assert "device-a may come" in log.read_text()
    assert "device-removed" not in log.read_text()
    exported = (find_run(tmp_path) / "metrics.txt").read_text()
    assert 'fedstill_certificate_expiry_timestamp_seconds{certificate="server.crt"}' in exported
    for method in ("UploadLabels", "UploadArtefact"):
        assert f'fedstill_grpc_calls_total{{code="OK",method="{method}"}} 2.0' in exported


def test_an_expired_certificate_is_said_before_anything_starts(site: dict[str, str], tmp_path: Path) -> None:
    init_authority(tmp_path / "certificates", clock=lambda: datetime.now(UTC) - timedelta(days=400))
    done = subprocess.run(
        [*map(str, coordinator(tmp_path, free_port())), "--certificates", "certificates"],
        env=site,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "the certificate of 'server' expired on" in done.stderr
    assert not (tmp_path / "site" / "superlink.db").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "would serve other machines in plaintext"),
        (["--certificates", "nowhere"], "holds no ca.crt"),
    ],
)
def test_what_cannot_be_served_safely_is_refused(
    site: dict[str, str], tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = subprocess.run(
        [str(BIN / "fedstill"), "coordinator", "--home", str(tmp_path / "site"), *arguments],
        env=site,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
