"""A real browser for what people look at, and the metrics of a run as they are served."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedstill.server.metrics import MetricsEndpoint, RunMetrics

CHROMIUM = Path("/usr/bin/chromium")
CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


# Of a module: while Playwright runs, a thread has an event loop, and other tests start their own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium; its absence skips a test on a laptop and fails it in CI."""
    if not CHROMIUM.exists() and os.environ.get("CI") == "true":
        pytest.fail(f"{CHROMIUM} has to be installed where CI=true")
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=CHROMIUM_ARGS)
        yield browser
        browser.close()


@pytest.fixture
def metrics() -> RunMetrics:
    return RunMetrics(max_node_series=10_000, run_id="digits-1", clock=lambda: 1000.0)


@pytest.fixture
def endpoint(metrics: RunMetrics) -> Iterator[MetricsEndpoint]:
    endpoint = MetricsEndpoint(metrics, host="127.0.0.1", port=0)
    endpoint.start()
    yield endpoint
    endpoint.stop()
