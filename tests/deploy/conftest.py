"""A real Prometheus with the shipped configuration, at a faster beat."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SHIPPED = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
STARTING_SECONDS = 30.0


class Prometheus:
    """One that runs; it discovers what stands in `targets_dir`."""

    def __init__(self, address: str, targets_dir: Path) -> None:
        self.address = address
        self.targets_dir = targets_dir

    def get(self, path: str, **arguments: str) -> Any:
        """Asks its API and returns the data of the answer."""
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(arguments)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:  # it serves before it is ready
                raise ConnectionError(str(error)) from None
            raise AssertionError(f"{arguments}: {error.read().decode()}") from None

    def query(self, expr: str) -> list[dict[str, Any]]:
        """Evaluates an expression now."""
        return list(self.get("query", query=expr)["result"])

    def wait_for(self, expr: str, *, seconds: float = 30.0) -> list[dict[str, Any]]:
        """Evaluates an expression until it returns something, or the time is over."""
        end = time.monotonic() + seconds
        while not (found := self._try(expr)) and time.monotonic() < end:
            time.sleep(0.1)
        return found

    def _try(self, expr: str) -> list[dict[str, Any]]:
        try:
            return self.query(expr)
        except OSError:  # still starting
            return []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _running(program: str, folder: Path, *, is_as_shipped: bool = False) -> Iterator[Prometheus]:
    for name in ("rules.yml", "alerts.yml"):
        shutil.copy(SHIPPED / name, folder)
    config = (SHIPPED / "prometheus.yml").read_text(encoding="utf-8")
    if not is_as_shipped:
        config = re.sub(r"(_interval): \d+s", r"\1: 1s", config)
    (folder / "prometheus.yml").write_text(config, encoding="utf-8")
    (folder / "targets").mkdir()
    address = f"127.0.0.1:{_free_port()}"
    process = subprocess.Popen(
        [
            program,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address={address}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        running = Prometheus(address, folder / "targets")
        assert running.wait_for("vector(1)", seconds=STARTING_SECONDS), "Prometheus did not start"
        yield running
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def prometheus(
    tmp_path_factory: pytest.TempPathFactory, require_program: Callable[[str], str]
) -> Iterator[Prometheus]:
    """Prometheus with the shipped rules; scrapes and evaluates each second."""
    with _running(require_program("prometheus"), tmp_path_factory.mktemp("prometheus")) as running:
        yield running


@pytest.fixture
def shipped_prometheus(tmp_path: Path, require_program: Callable[[str], str]) -> Iterator[Prometheus]:
    """Prometheus exactly as README sets it up, at the shipped beat."""
    folder = tmp_path / "prometheus"
    folder.mkdir()
    with _running(require_program("prometheus"), folder, is_as_shipped=True) as running:
        yield running
