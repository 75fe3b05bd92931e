"""A supervised SuperLink: it serves the certificate that is there now."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
from pathlib import Path

import psutil
import pytest

from fedstill.common.config import Config
from fedstill.common.errors import RunError, UsageError
from fedstill.server.deployment.flower_programs import (
    Site,
    flower_environment,
    superlink_command,
    write_connection,
)
from fedstill.server.deployment.supervision import (
    OWNER,
    _end,
    _end_leftovers,
    _keep_alive,
    _Part,
    _start,
    _wait_for_port,
    coordinate,
)
from fedstill.server.pki.authority import init_authority, renew_server
from fedstill.server.pki.renewal import check_served
from fedstill.server.run.state import hold_folder


@pytest.mark.slow
def test_a_renewed_certificate_is_taken_up_and_a_dead_superlink_is_started_again(tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    init_authority(folder)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    site = Site(tmp_path / "home", "127.0.0.1", port, folder)
    write_connection(site)
    environment = flower_environment(site, os.environ)
    part = _Part("superlink", superlink_command(site), folder / "server.crt")
    said: list[str] = []

    def served() -> str:
        _wait_for_port(site, part)
        return ssl.get_server_certificate(("127.0.0.1", port), timeout=10)

    try:
        _start(part, site, environment)
        assert served() == (folder / "server.crt").read_text()
        assert _keep_alive([part], site, environment, said.append) == []
        check_served(site.address, folder)
        renew_server(folder)
        with pytest.raises(RunError, match="serves another certificate"):
            check_served(site.address, folder)
        assert _keep_alive([part], site, environment, said.append) == ["superlink"]
        assert served() == (folder / "server.crt").read_text()
        check_served(site.address, folder)
        assert part.process
        part.process.kill()
        part.process.wait()
        assert _keep_alive([part], site, environment, said.append) == ["superlink"]
        assert served()
    finally:
        _end(part)
    with pytest.raises(RunError, match="does not answer: Connection refused"):
        check_served(site.address, folder)
    assert said == [
        "the superlink takes up its new certificate and is started again",
        "the superlink ended with code -9 and is started again",
    ]


def test_a_home_has_one_coordinator_at_a_time(tmp_path: Path) -> None:
    site = Site(tmp_path / "home", "127.0.0.1", 8000)
    refused = pytest.raises(UsageError, match=f"process {os.getpid()}\\) works in .*home: .* with --home")
    with hold_folder(site.home), refused:
        coordinate(site, Config(), site.home / "runs" / "run", say=print)
    assert not (site.home / "superlink.db").exists()


def test_what_a_killed_coordinator_left_is_ended_and_nothing_else(tmp_path: Path) -> None:
    site = Site(tmp_path / "home", "127.0.0.1", 8000)
    said: list[str] = []
    _end_leftovers(site, said.append)
    assert said == []
    left, other = (
        subprocess.Popen(["sleep", "60"], env=os.environ | {OWNER: str(home)})
        for home in (site.home, tmp_path / "another")
    )
    try:
        _end_leftovers(site, said.append)
        assert not psutil.pid_exists(left.pid)
        assert other.poll() is None
    finally:
        for process in (left, other):
            process.kill()
            process.wait()
    assert said == ["what a killed coordinator had left was ended (1 processes)"]
