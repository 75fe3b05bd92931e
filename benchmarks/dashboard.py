"""How fast the dashboard opens on a large fleet, and what watching it costs, in Chromium.

    python -m benchmarks.dashboard [--nodes 1000] [--seconds 20] [--json]

- *first paint*: from the navigation to a run of that many nodes until its charts and tiles are
  drawn (the shell paints before), median over fresh pages; the server has seen the run once,
  and `cold` is the very first look, which reads the whole folder;
- *watching*: a live run closes a round each second, so that every node changes sixty times a
  minute. CPU of the browser is that of all its processes (JavaScript, layout, paint and, without
  a GPU, compositing); CPU of the server is its process's. Shares are of one core.

Targets: first paint at most 1.5 s, watching at most 20 % of one core. Seen on two idle cores: cold 0.88 s,
then 0.46 s and 0.36 s; watching 3.3 % of a core in the browser and 5 to 6 % in the server, at 60 updates a
minute.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import statistics
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import sync_playwright

from benchmarks.fleet_folder import FleetFolder, make_finished_run
from fedstill.server.dashboard import make_app
from fedstill.server.dashboard.serving import make_server

CHROMIUM = "/usr/bin/chromium"
CHROMIUM_ARGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
NUM_PAGES = 5
VIEWS = {"fleet": "", "nodes": "/nodes"}
# Milliseconds since navigation at which the view is whole: its stream has come and its charts are drawn.
AWAIT_VIEW = """() => new Promise(resolve => {
  const look = () => document.querySelector('main:not(.waiting) :is(.uplot canvas, .grid .body .row)')
    ? requestAnimationFrame(() => resolve(performance.now())) : requestAnimationFrame(look);
  look();
})"""


def serve(root: str, listener: socket.socket) -> None:
    make_server(make_app(Path(root))).run(sockets=[listener])


def open_page(browser: Any, url: str) -> tuple[Any, float]:
    """A fresh page, and the milliseconds that it took to be whole."""
    page = browser.new_context(viewport={"width": 1360, "height": 900}).new_page()
    page.goto(url, wait_until="commit")
    return page, page.evaluate(AWAIT_VIEW)


def measure_paint(browser: Any, address: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, view in VIEWS.items():
        times = []
        for _ in range(NUM_PAGES):
            page, milliseconds = open_page(browser, f"{address}/#/run/finished{view}")
            times.append(milliseconds / 1000)
            page.context.close()
        found.setdefault("cold_seconds", times[0])
        found[f"{name}_seconds"] = statistics.median(times)
    return found


def read_cpu(pid: int) -> float:
    """CPU seconds of a process and those that it started."""
    process = psutil.Process(pid)
    times = [item.cpu_times() for item in [process, *process.children(recursive=True)]]
    return sum(item.user + item.system for item in times)


def read_browser_cpu() -> dict[int, float]:
    """CPU seconds of each process of the Chromium that this process started, by process id."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "chrom" in process.name():
                times = process.cpu_times()
                found[process.pid] = times.user + times.system
    return found


def subtract(end: dict[int, float], begin: dict[int, float]) -> float:
    """CPU seconds between two readings; processes that ended in between were not the page's."""
    return sum(seconds - begin.get(pid, 0.0) for pid, seconds in end.items())


def measure_watching(
    browser: Any, address: str, fleet: FleetFolder, server_pid: int, seconds: int
) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, view in VIEWS.items():
        page, _ = open_page(browser, f"{address}/#/run/live{view}")
        time.sleep(2)
        begin, page_begin, server_begin = time.monotonic(), read_browser_cpu(), read_cpu(server_pid)
        for number in range(seconds):
            fleet.close_round()
            time.sleep(max(0.0, begin + number + 1 - time.monotonic()))
        elapsed = time.monotonic() - begin
        found[f"{name}_browser_ratio"] = subtract(read_browser_cpu(), page_begin) / elapsed
        found[f"{name}_server_ratio"] = (read_cpu(server_pid) - server_begin) / elapsed
        found[f"{name}_updates_per_minute"] = 60 * seconds / elapsed
        page.get_by_text(f"round {fleet.state.round} of").wait_for()  # it kept up
        page.context.close()
    return found


def measure(num_nodes: int, seconds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as root, socket.socket() as listener:
        make_finished_run(Path(root) / "finished", num_nodes=num_nodes, num_rounds=10)
        listener.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = multiprocessing.get_context("fork").Process(target=serve, args=(root, listener))
        server.start()
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
                paint = measure_paint(browser, address)
                live = FleetFolder(Path(root) / "live", num_nodes=num_nodes, num_rounds=1000, is_light=True)
                with live as fleet:
                    fleet.close_round()
                    assert server.pid is not None
                    watching = measure_watching(browser, address, fleet, server.pid, seconds)
                browser.close()
        finally:
            server.terminate()
            server.join()
    return {"num_nodes": num_nodes, "num_cpus": os.cpu_count(), "paint": paint, "watching": watching}


def main() -> None:
    parser = argparse.ArgumentParser(description="Times the dashboard in Chromium.")
    parser.add_argument("--nodes", type=int, default=1000, help="nodes of the fleet")
    parser.add_argument("--seconds", type=int, default=20, help="how long each view is watched")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    found = measure(arguments.nodes, arguments.seconds)
    if arguments.json:
        print(json.dumps(found))
        return
    print(f"{found['num_nodes']:,} nodes")
    for part in ("paint", "watching"):
        for name, value in found[part].items():
            print(f"{part:>10}  {name:<26}{value:8.3f}")


if __name__ == "__main__":
    main()
