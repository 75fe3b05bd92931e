"""Devices with data of their own, on a real SuperLink: `fedstill coordinator` and `fedstill-node run`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import psutil
import pytest
from sklearn.datasets import load_digits

from server.authority import init_authority

pytestmark = [pytest.mark.slow, pytest.mark.alone]
BIN = Path(sys.executable).parent
QUICK = {
    "data.private": "nodes",
    "data.num_server": 500,
    "data.num_public": 400,
    "federation.num_nodes": 2,
    "federation.num_rounds": 2,
    "federation.control_fraction": 0.0,
    "federation.wait_seconds": 120.0,
    "teacher.num_epochs": 25,
    "distill.num_epochs": 4,
    "monitoring.enabled": False,
}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Data of a coordinator and two devices, and an end to whatever is started for them."""
    digits = load_digits()
    x, y = digits.images.astype(np.uint8), digits.target
    order = np.random.default_rng(0).permutation(len(y))
    parts = np.split(order, [200, 400, 1400])
    for name, part in zip(("a", "b"), parts[:2], strict=True):
        np.savez(tmp_path / f"{name}.npz", x=x[part], y=y[part])
    train, test = parts[2:]
    np.savez(tmp_path / "server.npz", x_train=x[train], y_train=y[train], x_test=x[test], y_test=y[test])
    mark = str(tmp_path)
    yield os.environ | {"FEDSTILL_TEST_SITE": mark, "COLUMNS": "200"}
    for process in psutil.process_iter():
        try:
            if process.environ().get("FEDSTILL_TEST_SITE") == mark:
                process.kill()
        except psutil.Error:
            continue


@contextmanager
def started(
    command: list[object], environment: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(word) for word in command], env=environment, stdout=file, stderr=file, cwd=log.parent
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(40)


def start_devices(stack: ExitStack, folder: Path, environment: dict[str, str], port: int) -> None:
    for name in ("a", "b"):
        command = [
            BIN / "fedstill-node",
            "run",
            "--superlink",
            f"127.0.0.1:{port}",
            "--node-id",
            f"device-{name}",
        ]
        command += ["--data", folder / f"{name}.npz", "--home", folder / f"home-{name}"]
        stack.enter_context(started(command, environment, folder / f"{name}.log"))


def start_bundles(stack: ExitStack, folder: Path, environment: dict[str, str]) -> None:
    for name in ("a", "b"):
        command = [BIN / "fedstill-node", "run", "--bundle", folder / f"device-{name}"]
        command += ["--home", folder / f"home-{name}"]
        stack.enter_context(started(command, environment, folder / f"{name}.log"))


def fedstill(folder: Path, *words: object) -> None:
    subprocess.run([str(BIN / "fedstill"), *map(str, words)], cwd=folder, check=True)


def enrol(folder: Path, port: int) -> None:
    fedstill(folder, "certs", "init")
    for name in ("a", "b", "removed"):
        data = folder / ("a.npz" if name == "removed" else f"{name}.npz")
        words = [f"device-{name}", "--superlink", f"127.0.0.1:{port}", "--data", data]
        fedstill(folder, "fleet", "add", *words, "--output", f"device-{name}")
    fedstill(folder, "fleet", "remove", "device-removed")


def coordinator(folder: Path, port: int) -> list[object]:
    settings = [f"data.source={folder / 'server.npz'}", *(f"{key}={value}" for key, value in QUICK.items())]
    command = [BIN / "fedstill", "coordinator", "--home", folder / "site", "--port", port]
    return command + [
        word for setting in settings for word in ("--set", str(setting).replace("False", "false"))
    ]


def wait_until(
    is_so: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, *, seconds: float
) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if is_so():
            return
        assert process.poll() is None, log.read_text()
        time.sleep(0.2)
    raise AssertionError(f"waited {seconds} s in vain: {log.read_text()}")


def committed_rounds(folder: Path) -> int:
    files = list((folder / "site" / "runs").glob("*/rounds.jsonl"))
    return len(files[0].read_text().splitlines()) if files else 0


def check_summary(folder: Path) -> None:
    (run_dir,) = (folder / "site" / "runs").iterdir()
    nodes = json.loads((run_dir / "summary.json").read_text())["nodes"]
    assert [node["node_id"] for node in nodes] == ["device-a", "device-b"]
    assert [node["num_train_samples"] for node in nodes] == [140, 140]
    assert [node["num_rounds"] for node in nodes] == [2, 2]
    assert min(node["accuracy"] for node in nodes) > 0.5


def test_devices_bring_their_own_data(site: dict[str, str], tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "coordinator.log"
    with ExitStack() as stack:
        process = stack.enter_context(started(coordinator(tmp_path, port), site, log))
        start_devices(stack, tmp_path, site, port)
        assert process.wait(240) == 0, log.read_text()
    check_summary(tmp_path)


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
        start_bundles(stack, tmp_path, site)
        assert process.wait(440) == 0, log.read_text()
    check_summary(tmp_path)
    assert "device-a may come" in log.read_text()
    assert "device-removed" not in log.read_text()
    (run_dir,) = (tmp_path / "site" / "runs").iterdir()
    exported = (run_dir / "metrics.txt").read_text()
    assert 'fedstill_certificate_expiry_timestamp_seconds{certificate="server.crt"}' in exported
    for method in ("UploadLabels", "UploadArtefact"):
        assert f'fedstill_grpc_calls_total{{code="OK",method="{method}"}} 2.0' in exported


@pytest.mark.skipif(
    not os.environ.get("FEDSTILL_CHAOS_KILLS"),
    reason="Flower takes a minute to notice a dead task; set FEDSTILL_CHAOS_KILLS to run it",
)
def test_a_killed_superexec_comes_back_and_the_run_goes_on(site: dict[str, str], tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "coordinator.log"
    with ExitStack() as stack:
        process = stack.enter_context(started(coordinator(tmp_path, port), site, log))
        start_devices(stack, tmp_path, site, port)
        wait_until(lambda: committed_rounds(tmp_path) >= 1, process, log, seconds=120)
        (superexec,) = [
            child
            for child in psutil.Process(process.pid).children()
            if "flower-superexec" in " ".join(child.cmdline())
        ]
        superexec.send_signal(signal.SIGKILL)
        assert process.wait(400) == 0, log.read_text()
    check_summary(tmp_path)
    assert "superexec ended with code -9 and is started again" in log.read_text()
    assert "to go on" in log.read_text()


def test_with_certificates_the_printed_commands_authenticate_all_parts(
    site: dict[str, str], tmp_path: Path
) -> None:
    fedstill(tmp_path, "certs", "init")
    command = [*coordinator(tmp_path, 18_080), "--certificates", "certificates", "--print"]
    done = subprocess.run(
        [str(word) for word in command], env=site, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    superlink, superexec, register, run = done.stdout.splitlines()
    secret = f"--superexec-auth-secret-file {tmp_path / 'site' / 'superexec.secret'}"
    assert "--enable-supernode-auth" in superlink
    assert secret in superlink
    assert secret in superexec
    assert f"fleet register --superlink 127.0.0.1:18080 --home {tmp_path / 'site'}" in register
    assert f'exchange.certificates_dir="{tmp_path / "certificates"}"' in run
    assert (tmp_path / "site" / "superexec.secret").stat().st_mode & 0o777 == 0o600


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


def test_the_commands_can_be_printed_for_running_the_parts_apart(
    site: dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [str(word) for word in [*coordinator(tmp_path, 18_080), "--print"]],
        env=site,
        capture_output=True,
        text=True,
        check=True,
    )
    superlink, superexec, run = done.stdout.splitlines()
    assert "flower-superlink --isolation process --database" in superlink
    assert "--runtime-api-address 127.0.0.1:18080 --insecure" in superexec
    assert " run " in run
    assert 'data.private="nodes"' in run
    assert (tmp_path / "site" / "flower" / "config.toml").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "would serve other machines in plaintext"),
        (["--authenticate"], "--authenticate needs TLS"),
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
