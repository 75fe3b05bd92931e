"""What `fedstill-node run` starts, refuses and starts again."""

import itertools
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from clients.device import (
    LONGEST_PAUSE_SECONDS,
    Device,
    build_command,
    build_environment,
    check_device,
    end_process_group,
    pauses,
)
from common.errors import UsageError


@pytest.fixture
def device(tmp_path):
    data = tmp_path / "own data.npz"
    data.write_bytes(b"")
    return Device("kitchen", "127.0.0.1:8000", data, home=tmp_path / "home", num_threads=2)


def replaced(device, **values):
    return Device(**{**vars(device), **values})


def test_a_device_that_can_work_passes(device):
    check_device(device, allow_insecure=False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"node_id": "../up"}, "expected a node name"),
        ({"superlink": "coordinator"}, "expected host:port, got 'coordinator'"),
        ({"superlink": "coordinator:99999"}, "expected host:port"),
        ({"superlink": "coordinator.example:8000"}, "is another machine: give --certificates"),
    ],
)
def test_what_cannot_work_is_refused(device, values, message):
    with pytest.raises(UsageError, match=message):
        check_device(replaced(device, **values), allow_insecure=False)


def test_data_that_is_not_there_is_refused(device, tmp_path):
    with pytest.raises(UsageError, match=r"--data: .*none.csv does not exist"):
        check_device(replaced(device, data=tmp_path / "none.csv"), allow_insecure=False)


def test_a_folder_without_the_authority_is_refused(device, tmp_path):
    with pytest.raises(UsageError, match=r"holds no ca\.crt"):
        check_device(replaced(device, certificates=tmp_path), allow_insecure=False)


def test_plaintext_to_another_machine_can_be_asked_for(device):
    check_device(replaced(device, superlink="coordinator.example:8000"), allow_insecure=True)


def test_the_supernode_is_told_name_and_data(device):
    command = build_command(device)
    config = command[command.index("--node-config") + 1]
    assert config == f'node-id="kitchen" data-source="{device.data}"'
    assert "--insecure" in command


def test_with_certificates_the_link_is_encrypted_and_the_node_authenticated(device, tmp_path):
    for name in ("ca.crt", "node.key"):
        (tmp_path / name).write_text("")
    command = build_command(replaced(device, certificates=tmp_path))
    assert "--insecure" not in command
    assert command[command.index("--root-certificates") + 1] == str(tmp_path / "ca.crt")
    assert command[command.index("--auth-supernode-private-key") + 1] == str(tmp_path / "node.key")


def test_threads_and_folders_are_bounded(device, tmp_path):
    environment = build_environment(device, {"PATH": "/bin", "OMP_NUM_THREADS": "64"})
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "2"
    assert environment["FEDSTILL_HOME"] == str(tmp_path / "home")


def test_pauses_double_up_to_a_minute():
    found = list(itertools.islice(pauses(), 8))
    assert found[:3] == [1, 2, 4]
    assert found[-1] == LONGEST_PAUSE_SECONDS


def test_ending_takes_what_the_process_started_along():
    script = (
        "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    child = int(process.stdout.readline())
    end_process_group(process)
    assert process.returncode == -signal.SIGTERM
    process.stdout.close()
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_a_lost_supernode_is_started_again_until_the_device_is_told_to_stop(device, tmp_path):
    # No coordinator listens there, and the SuperNode is killed as a device's memory killer would.
    command = [str(Path(sys.executable).with_name("fedstill-node")), "run"]
    command += ["--superlink", "127.0.0.1:9", "--node-id", "kitchen", "--data", str(device.data)]
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen([*command, "--home", str(tmp_path / "h")], stdout=file, stderr=file)
    try:
        killed = supernode_of(process)
        killed.kill()
        assert supernode_of(process, other_than=killed.pid).pid != killed.pid
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def supernode_of(process, other_than=0):
    end = time.monotonic() + 40
    while time.monotonic() < end:
        for child in psutil.Process(process.pid).children():
            if child.pid != other_than and "flower-supernode" in " ".join(child.cmdline()):
                return child
        time.sleep(0.1)
    raise AssertionError("no SuperNode was started")
