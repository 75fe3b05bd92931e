"""Run folders as a run leaves them, and the dashboard as a server of its own."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.fleet_folder import FleetFolder, make_finished_run
from fedstill.server.dashboard import make_app
from fedstill.server.dashboard.serving import make_server


@contextmanager
def serving(root: Path, **options: Any) -> Iterator[str]:
    """Serves the dashboard of a folder on a free port; yields its address."""
    app = make_app(root, **{"tick_seconds": 0.1, **options})
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = make_server(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            deadline = time.monotonic() + 30
            while not server.started:
                assert time.monotonic() < deadline, "the dashboard did not start"
                time.sleep(0.02)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)


@pytest.fixture(scope="session")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 12 nodes, one of 1,000, and one that died after three rounds."""
    root = tmp_path_factory.mktemp("runs")
    make_finished_run(root / "small", num_nodes=12, num_rounds=4)
    make_finished_run(root / "large", num_nodes=1000, num_rounds=3, seed=1)
    with FleetFolder(root / "died", num_nodes=20, num_rounds=9, seed=2, fail_ratio=0.15) as fleet:
        for _ in range(3):
            fleet.close_round()
    return root


@pytest.fixture(scope="session")
def dashboard(runs_dir: Path) -> Iterator[str]:
    """The address of a dashboard of these runs."""
    with serving(runs_dir) as address:
        yield address


@pytest.fixture
def serve() -> Callable[..., Any]:
    """Serves other folders, or with other options."""
    return serving
