"""A page that watches is told of changes as they come, and asks for nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.fleet_folder import FleetFolder
from fedstill.server.dashboard.metrics import estimate_quantile, parse_samples


def read_events(response: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    name = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def test_a_finished_run_sends_its_snapshot_first(dashboard: str) -> None:
    with httpx.stream("GET", f"{dashboard}/api/run/stream?run=small") as response:
        name, snapshot = next(read_events(response))

    assert response.headers["content-type"].startswith("text/event-stream")
    assert name == "snapshot"
    assert snapshot == httpx.get(f"{dashboard}/api/run?run=small").json()


def test_rounds_of_a_live_run_arrive_by_themselves(serve: Callable[..., Any], tmp_path: Path) -> None:
    with (
        FleetFolder(tmp_path / "live", num_nodes=6, num_rounds=5) as fleet,
        serve(tmp_path) as address,
        httpx.stream("GET", f"{address}/api/run/stream?run=live", timeout=20) as response,
    ):
        events = read_events(response)
        _, snapshot = next(events)
        fleet.close_round()
        rounds = next(change["rounds"] for _, change in events if "rounds" in change)
        fleet.finish()
        overviews = (change["overview"] for _, change in events)
        finished = next(overview for overview in overviews if overview["status"] == "finished")

    assert snapshot["rounds"] == []
    assert [entry["round"] for entry in rounds] == [1]
    assert finished["fleet"]["accuracy_mean"] == pytest.approx(rounds[0]["accuracy_mean"], abs=1e-5)


def test_a_new_run_appears_in_the_list(serve: Callable[..., Any], tmp_path: Path) -> None:
    with (
        serve(tmp_path) as address,
        httpx.stream("GET", f"{address}/api/runs/stream", timeout=20) as response,
    ):
        events = read_events(response)
        _, before = next(events)
        with FleetFolder(tmp_path / "new", num_nodes=4, num_rounds=2):
            _, after = next(events)

    assert before["runs"] == []
    assert [(run["name"], run["status"]) for run in after["runs"]] == [("new", "live")]


def test_pages_of_one_run_share_what_is_read(serve: Callable[..., Any], tmp_path: Path) -> None:
    with FleetFolder(tmp_path / "live", num_nodes=4, num_rounds=5) as fleet, serve(tmp_path) as address:
        url = f"{address}/api/run/stream?run=live"
        with httpx.stream("GET", url, timeout=20) as first, httpx.stream("GET", url, timeout=20) as second:
            streams = [read_events(first), read_events(second)]
            for events in streams:
                next(events)
            fleet.close_round()
            rounds = [next(c["rounds"] for _, c in events if "rounds" in c) for events in streams]

    assert rounds[0] == rounds[1]


def test_metrics_are_parsed_from_both_formats() -> None:
    page = (
        'fedstill_round 3\nfedstill_gap_ratio NaN\nfedstill_drops_total{reason="a\\"b"} 2.0\n'
        'fedstill_node_x{node_id="n"} 1\n# EOF\n'
    )

    assert parse_samples(page) == {"round": [({}, 3.0)], "drops_total": [({"reason": 'a"b'}, 2.0)]}


def test_a_quantile_lies_within_its_bucket() -> None:
    buckets = [(0.1, 0.0), (0.2, 10.0), (float("inf"), 10.0)]

    assert estimate_quantile(buckets, 0.5) == pytest.approx(0.15)
    assert estimate_quantile([(0.1, 0.0), (float("inf"), 4.0)], 0.5) == 0.1
    assert estimate_quantile([(0.1, 0.0)], 0.5) is None
