"""Nodes on one machine name it alike, whatever their host name is."""

import socket
import subprocess
import sys

import pytest

from fedstill.clients.machine import name_machine

ASK = "from fedstill.clients.machine import name_machine; print(name_machine())"


def test_processes_with_other_host_names_name_the_same_machine(require_program):
    unshare = require_program("unshare")
    rename = "import socket; socket.sethostname('elsewhere'); " + ASK + "; print(socket.gethostname())"
    done = subprocess.run(
        [unshare, "--uts", "--map-root-user", sys.executable, "-c", rename],
        capture_output=True,
        text=True,
        check=False,
    )
    if "not permitted" in done.stderr:
        pytest.skip("this machine gives no host name away")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [name_machine(), "elsewhere"]


def test_without_a_boot_id_it_is_the_host_name(tmp_path):
    assert name_machine(tmp_path / "none") == socket.gethostname()
