"""What `fedstill-node run` starts, refuses and starts again."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from fedstill.clients.bundle import read_bundle
from fedstill.clients.device import (
    LONGEST_PAUSE_SECONDS,
    Device,
    build_command,
    build_environment,
    check_device,
    end_process_group,
    pauses,
    run_device,
)
from fedstill.common.errors import UsageError
from fedstill.server.pki.authority import init_authority, issue_node
from fedstill.server.pki.enrolment import add_node, write_bundle


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
        ({"superlink": "coordinator.example:8000"}, "is another machine: give --bundle"),
    ],
)
def test_what_cannot_work_is_refused(device, values, message):
    with pytest.raises(UsageError, match=message):
        check_device(replaced(device, **values), allow_insecure=False)


def test_data_that_is_not_there_is_refused(device, tmp_path):
    with pytest.raises(UsageError, match=r"--data: .*none.csv does not exist"):
        check_device(replaced(device, data=tmp_path / "none.csv"), allow_insecure=False)


@pytest.fixture
def bundle(tmp_path):
    init_authority(tmp_path / "authority")
    add_node(tmp_path / "authority", "kitchen", tmp_path / "bundle", data="own.npz")
    return tmp_path / "bundle"


@pytest.mark.parametrize("name", ["ca.crt", "node.crt", "node.key", "flower.key"])
def test_a_folder_that_lacks_a_file_is_refused(device, bundle, name):
    (bundle / name).unlink()
    with pytest.raises(UsageError, match=name.replace(".", r"\.")):
        check_device(replaced(device, certificates=bundle), allow_insecure=False)


def test_another_nodes_certificate_is_refused(device, bundle):
    with pytest.raises(UsageError, match="the certificate is that of 'kitchen', the node is called 'attic'"):
        check_device(replaced(device, certificates=bundle, node_id="attic"), allow_insecure=False)


def test_an_expired_bundle_is_refused_before_anything_starts(tmp_path):
    init_authority(tmp_path / "ca", clock=lambda: datetime.now(UTC) - timedelta(days=400))
    secrets = issue_node(tmp_path / "ca", "kitchen", clock=lambda: datetime.now(UTC) - timedelta(days=400))
    settings = b'node_id = "kitchen"\nsuperlink = "c:8000"\ndata = "x"\n'
    write_bundle(tmp_path / "kitchen", "kitchen", secrets.files | {"node.toml": settings})
    with pytest.raises(UsageError, match="the certificate of 'kitchen' expired on"):
        read_bundle(tmp_path / "kitchen")


def test_an_archive_is_to_be_unpacked(tmp_path):
    (tmp_path / "kitchen.tar.gz").write_bytes(b"")
    with pytest.raises(UsageError, match="unpack it"):
        read_bundle(tmp_path / "kitchen.tar.gz")


def test_a_folder_that_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"holds no node\.toml"):
        read_bundle(tmp_path)


def test_without_a_bundle_the_command_says_what_it_lacks(tmp_path):
    command = [str(Path(sys.executable).with_name("fedstill-node")), "run", "--node-id", "kitchen"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "fedstill-node: expected --bundle, or --superlink, --data\n"


def test_plaintext_to_another_machine_can_be_asked_for(device):
    check_device(replaced(device, superlink="coordinator.example:8000"), allow_insecure=True)


def test_the_supernode_is_told_name_and_data(device):
    command = build_command(device, device.superlink, None)
    config = command[command.index("--node-config") + 1]
    assert config == f'node-id="kitchen" data-source="{device.data}"'
    assert "--insecure" in command


def test_with_certificates_the_link_is_encrypted_and_the_node_authenticated(device, tmp_path):
    command = build_command(replaced(device, certificates=tmp_path), "127.0.0.1:9", tmp_path / "loopback.crt")
    assert "--insecure" not in command
    assert command[command.index("--superlink") + 1] == "127.0.0.1:9"
    assert command[command.index("--root-certificates") + 1] == str(tmp_path / "loopback.crt")
    assert command[command.index("--auth-supernode-private-key") + 1] == str(tmp_path / "flower.key")
    assert f'certificates-dir="{tmp_path}"' in command[command.index("--node-config") + 1]


@pytest.mark.parametrize("before", [{}, {"NO_PROXY": "intranet"}])
def test_a_proxy_is_not_asked_for_loopback(device, before):
    environment = build_environment(device, {"HTTPS_PROXY": "http://proxy:3128"} | before)
    assert environment["NO_PROXY"] == environment["no_proxy"]
    assert environment["no_proxy"].split(",") == [*before.values(), "127.0.0.1", "localhost"]


def test_threads_and_folders_are_bounded(device, tmp_path):
    environment = build_environment(device, {"PATH": "/bin", "OMP_NUM_THREADS": "64"})
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "2"
    assert environment["FEDSTILL_HOME"] == str(tmp_path / "home")


def test_tasks_are_asked_for_often_unless_told_otherwise(device):
    name = "FLWR_SUPEREXEC_TASK_POLL_INTERVAL"
    assert 0.01 <= float(build_environment(device, {})[name]) < 1
    assert build_environment(device, {name: "5"})[name] == "5"


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
    end = time.monotonic() + 10  # the system takes it away a moment later
    while (is_there := is_running(child)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_there


def is_running(pid):
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


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


def test_a_stop_while_the_supernode_is_being_started_leaves_none_behind(device, monkeypatch):
    started = []

    def start(*_arguments):
        process = subprocess.Popen(["sleep", "60"], start_new_session=True)
        started.append(process)
        os.kill(os.getpid(), signal.SIGTERM)
        return process

    monkeypatch.setattr("fedstill.clients.device.start_supernode", start)
    try:
        assert run_device(replaced(device, niceness=0)) == 0
        assert [process.poll() for process in started] == [-signal.SIGTERM]
    finally:
        for process in started:
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
