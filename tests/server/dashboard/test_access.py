"""Who may look, and what nobody may."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from fedstill.common.errors import UsageError
from fedstill.server.dashboard import check_binding, serve_dashboard
from fedstill.server.dashboard.access import make_pass
from fedstill.server.dashboard.serving import LOOPBACK_NAMES, Binding

TOKEN = "correct-horse-battery"
PATHS = (
    "/api/runs",
    "/api/run?run=small",
    "/api/run/stream?run=small",
    "/api/node?run=small&node=node-0001",
    "/report",
)


def test_pages_and_figures_are_there(dashboard: str) -> None:
    page = httpx.get(f"{dashboard}/")
    runs = httpx.get(f"{dashboard}/api/runs").json()["runs"]

    assert page.status_code == 200
    assert "static/app.js" in page.text
    assert {run["name"]: run["status"] for run in runs} == {
        "died": "stopped",
        "large": "finished",
        "small": "finished",
    }


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/api/runs", "/nowhere"])
def test_every_answer_carries_the_policy(dashboard: str, path: str) -> None:
    headers = httpx.get(dashboard + path).headers

    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_changed(dashboard: str, method: str) -> None:
    for path in ("/", "/api/runs", "/api/run", "/report"):
        assert httpx.request(method, dashboard + path).status_code == 405


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2f..%2fcli.py",
        "/static//etc/passwd",
        "/api/run?run=../small",
        "/api/run?run=/etc",
        "/api/run?run=small/nodes",
        "/report?run=../../small",
        "/api/node?run=small&node=../../config.toml",
    ],
)
def test_no_path_leads_out_of_what_is_shown(dashboard: str, path: str) -> None:
    with httpx.Client() as client:
        request = client.build_request("GET", dashboard)
        request.url = request.url.copy_with(raw_path=path.encode())  # as it stands, not tidied up
        assert client.send(request).status_code == 404


def test_a_report_that_is_a_link_is_not_followed(
    serve: Callable[..., Any], runs_dir: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("keep out")
    run_dir = tmp_path / "runs" / "run"
    run_dir.mkdir(parents=True)
    for name in ("config.toml", "summary.json"):
        (run_dir / name).write_text((runs_dir / "small" / name).read_text())
    (run_dir / "report.html").symlink_to(secret)

    with serve(tmp_path / "runs") as address:
        answer = httpx.get(f"{address}/report?run=run")

    assert answer.status_code == 404
    assert "keep out" not in answer.text


def test_without_the_token_nothing_is_told(serve: Callable[..., Any], runs_dir: Path) -> None:
    with serve(runs_dir, token=TOKEN) as address:
        for path in PATHS:
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": "fedstill_1=x"}):
                answer = httpx.get(address + path, headers=headers)
                assert answer.status_code == 401
                assert "small" not in answer.text
        entrance = httpx.get(f"{address}/")

    assert (entrance.status_code, entrance.headers["location"]) == (303, "/login")


def test_the_token_lets_in_as_a_header_and_as_a_cookie(serve: Callable[..., Any], runs_dir: Path) -> None:
    with serve(runs_dir, token=TOKEN) as address, httpx.Client(base_url=address) as client:
        bearer = httpx.get(f"{address}/api/runs", headers={"Authorization": f"Bearer {TOKEN}"})
        refused = client.post("/login", data={"token": "guess"})
        let_in = client.post("/login", data={"token": TOKEN})
        looked = client.get("/api/runs")

    assert bearer.status_code == 200
    assert refused.headers["location"] == "/login?refused"
    cookie = let_in.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    assert looked.status_code == 200


def test_a_cookie_is_worth_nothing_for_another_token() -> None:
    assert make_pass(TOKEN) != make_pass(TOKEN + "x")


def test_a_strangers_name_for_loopback_is_refused(serve: Callable[..., Any], runs_dir: Path) -> None:
    with serve(runs_dir, hosts=LOOPBACK_NAMES) as address:
        port = address.rpartition(":")[2]
        strange = httpx.get(f"{address}/api/runs", headers={"Host": f"attacker.example:{port}"})
        known = [
            httpx.get(f"{address}/", headers={"Host": f"{name}:{port}"}) for name in ("localhost", "[::1]")
        ]

    assert strange.status_code == 400
    assert [answer.status_code for answer in known] == [200, 200]


def test_loopback_needs_no_token_and_the_rest_gets_one() -> None:
    assert check_binding("127.0.0.1", 0, "") == Binding("127.0.0.1", 0, "")
    assert check_binding("::1", 0, "").token == ""
    assert len(check_binding("0.0.0.0", 0, "").token) >= 24
    assert check_binding("0.0.0.0", 0, "").token != check_binding("0.0.0.0", 0, "").token


def test_a_short_token_is_refused_where_others_can_reach_it() -> None:
    with pytest.raises(UsageError, match=r"16 letters or more for 0\.0\.0\.0, got 5"):
        check_binding("0.0.0.0", 8700, "short")


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a folder of runs"):
        serve_dashboard(tmp_path / "none", check_binding("127.0.0.1", 0, ""), say=print)


def test_a_port_that_is_taken_is_named(dashboard: str, runs_dir: Path) -> None:
    port = int(dashboard.rpartition(":")[2])

    with pytest.raises(UsageError, match=rf"127\.0\.0\.1:{port} is taken; choose another --port"):
        serve_dashboard(runs_dir, check_binding("127.0.0.1", port, ""), say=print)
