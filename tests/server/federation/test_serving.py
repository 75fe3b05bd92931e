"""How long a run's metrics stay: until Prometheus has the last of them, where one is told of the run."""

from __future__ import annotations

import os
import signal
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from fedstill.common.config import Config, load_config
from fedstill.server.federation.serving import SCRAPE_SECONDS, serve_run
from fedstill.server.metrics.endpoint import SCRAPER_HEADER
from fedstill.server.run.events import Event, ScrapeAwaited


def _announced(tmp_path: Path) -> Config:
    return load_config(overrides=[f"monitoring.targets_dir={tmp_path / 'targets'}"])


def _seconds_to_leave(
    config: Config, run_dir: Path, events: list[Event], *, during_wait: Callable[[str], None] | None = None
) -> float:
    run_dir.mkdir()

    def observe(event: Event) -> None:
        events.append(event)
        if isinstance(event, ScrapeAwaited) and during_wait is not None:
            address = (run_dir / "metrics.address").read_text().strip()
            threading.Timer(0.3, during_wait, [address]).start()

    with serve_run(config, run_dir, "digits-1", observe):
        begin = time.monotonic()
    return time.monotonic() - begin


def _get(url: str, headers: dict[str, str]) -> None:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
        answer.read()


def test_a_run_without_targets_ends_at_once(tmp_path: Path) -> None:
    events: list[Event] = []

    assert _seconds_to_leave(Config(), tmp_path / "run", events) < 5
    assert events == []


def test_endpoint_and_target_stay_until_both_pages_were_scraped(tmp_path: Path) -> None:
    seen: list[tuple[str, bool]] = []

    def scrape(address: str) -> None:
        target = tmp_path / "targets" / "digits-1.json"
        _get(f"http://{address}/metrics", {})
        _get(f"http://{address}/metrics/nodes", {})  # a person looks: that is no scrape
        for page in ("/metrics", "/metrics/nodes"):
            time.sleep(0.2)
            seen.append((page, target.exists()))
            _get(f"http://{address}{page}", {SCRAPER_HEADER: "10"})

    events: list[Event] = []
    seconds = _seconds_to_leave(_announced(tmp_path), tmp_path / "run", events, during_wait=scrape)

    assert seen == [("/metrics", True), ("/metrics/nodes", True)]
    assert 0.7 < seconds < SCRAPE_SECONDS / 2
    assert events == [ScrapeAwaited(SCRAPE_SECONDS)]
    assert list((tmp_path / "targets").iterdir()) == []
    assert (tmp_path / "run" / "metrics.txt").exists()


def test_ctrl_c_ends_the_wait_and_not_the_run(tmp_path: Path) -> None:
    def interrupt(_address: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    events: list[Event] = []
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)  # workers of xdist ignore it
    try:
        seconds = _seconds_to_leave(_announced(tmp_path), tmp_path / "run", events, during_wait=interrupt)
    finally:
        signal.signal(signal.SIGINT, previous)

    assert seconds < SCRAPE_SECONDS / 2
    assert list((tmp_path / "targets").iterdir()) == []


def test_a_run_that_failed_waits_for_nobody(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    events: list[Event] = []
    begin = time.monotonic()

    with (
        pytest.raises(ZeroDivisionError),
        serve_run(_announced(tmp_path), tmp_path / "run", "digits-1", events.append),
    ):
        raise ZeroDivisionError

    assert time.monotonic() - begin < SCRAPE_SECONDS / 2
    assert events == []
