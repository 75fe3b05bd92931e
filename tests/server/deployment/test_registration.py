"""A SuperLink's list of SuperNodes follows the enrolled fleet; here against a real SuperLink."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedstill.server.deployment.flower_control import Control
from fedstill.server.deployment.flower_programs import (
    CONNECTION,
    Site,
    flower_environment,
    superlink_command,
    write_connection,
)
from fedstill.server.deployment.registration import REGISTERED
from fedstill.server.deployment.supervision import _open_registry
from fedstill.server.pki.authority import init_authority, issue_node, revoke_node

pytestmark = pytest.mark.slow


@pytest.fixture
def site(tmp_path):
    init_authority(tmp_path / "certificates")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return Site(tmp_path / "home", "127.0.0.1", port, tmp_path / "certificates")


@pytest.fixture
def superlink(site):
    write_connection(site)
    environment = flower_environment(site, os.environ)
    with (site.home / "log").open("wb") as log:
        process = subprocess.Popen(superlink_command(site), env=environment, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", site.port), timeout=1):
                break
            assert process.poll() is None, (site.home / "log").read_text()
            time.sleep(0.2)
        yield environment
    finally:
        process.terminate()
        process.wait(30)


def list_supernodes(environment):
    command = [str(Path(sys.executable).with_name("flwr")), "supernode", "ls", CONNECTION]
    done = subprocess.run(
        [*command, "--format", "json", "--verbose"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return [node["status"] for node in json.loads(done.stdout)["nodes"]]


def test_who_is_enrolled_is_registered_and_who_is_removed_is_not(site, superlink):
    said = []
    registry = _open_registry(site, Control(site), said.append)
    for name in ("kitchen", "attic"):
        issue_node(site.certificates, name)
    registry.sync()
    registry.sync()
    assert sorted(said) == ["attic may come", "kitchen may come"]
    revoke_node(site.certificates, "attic")
    registry.sync()
    assert sorted(list_supernodes(superlink)) == ["registered", "unregistered"]
    assert len(json.loads((site.home / REGISTERED).read_bytes())) == 1
    # A record that was lost is no reason to stop: the key is known to the SuperLink.
    (site.home / REGISTERED).unlink()
    again = _open_registry(site, Control(site), said.append)
    again.sync()
    assert len(said) == 3
