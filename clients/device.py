"""`fedstill-node run`: a device's part in federations, for as long as the device lives.

Flower's SuperNode keeps the link to the coordinator, through a forwarder that shows the device's
certificate and lets only signed apps pass; this keeps the SuperNode. One that
ends, whatever the cause (a lost link, a killed process, a node id that the coordinator
still believes to be online), is started again after a pause that doubles up to a minute.
Label cache and node store lie on disk, so nothing has to be sent twice.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedstill.clients.bundle import check_certificate
from fedstill.clients.node_config import CERTIFICATES_DIR, DATA_SOURCE, NODE_ID, PROFILE
from fedstill.clients.superlink import explain_end, find_fault
from fedstill.common.certificates import FLOWER_KEY, is_loopback
from fedstill.common.devices import load_profile
from fedstill.common.dialing import find_free_port
from fedstill.common.errors import UsageError
from fedstill.common.files import default_home
from fedstill.common.flower import TASK_POLL, TASK_POLL_SECONDS
from fedstill.common.installation import install_command

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
# A SuperNode that lived this long was well: the next failure is a first one again.
WELL_SECONDS = 120.0
GRACE_SECONDS = 10.0
_THREAD_LIMITS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Device:
    """What a device brings and may spend.

    Attributes:
        node_id: Enrolment name.
        superlink: The coordinator's SuperLink, host:port.
        data: The device's own labelled data, a path in any supported format.
        certificates: The device's bundle: ca.crt, node.crt, node.key, flower.key; None: plaintext.
        home: Label cache and node store.
        niceness: Added to the niceness of everything that runs.
        num_threads: Threads of every numerical library.
        profile: What the device can hold and how fast it is; None: the coordinator's defaults.
    """

    node_id: str
    superlink: str
    data: Path
    certificates: Path | None = None
    home: Path | None = None
    niceness: int = 10
    num_threads: int = 1
    profile: Path | None = None


def check_device(device: Device, *, allow_insecure: bool) -> None:
    """Refuses what cannot work before anything is started.

    Args:
        device: The device.
        allow_insecure: Plaintext to another machine is wanted.

    Raises:
        UsageError: A name, address, path, profile or certificate that cannot be used, or
            plaintext to another machine that was not asked for.
    """
    if not _NAME.fullmatch(device.node_id):
        raise UsageError(f"expected a node name of letters, digits, '.', '_' and '-', got {device.node_id!r}")
    host, separator, port = device.superlink.rpartition(":")
    if not (separator and host and port.isdigit() and 0 < int(port) < 65_536):
        raise UsageError(f"--superlink: expected host:port, got {device.superlink!r}")
    if not device.data.exists():
        raise UsageError(f"--data: {device.data} does not exist; give a file or folder of labelled samples")
    if device.profile is not None:
        load_profile(str(device.profile))
    if device.certificates is None:
        if not (is_loopback(host) or allow_insecure):
            raise UsageError(
                f"{host} is another machine: give --bundle, or --allow-insecure to send data that anyone on"
                " the way can read and alter"
            )
    else:
        check_certificate(device.certificates, node_id=device.node_id)


def build_command(device: Device, superlink: str, root: Path | None) -> list[str]:
    """Builds the command line of the SuperNode.

    Args:
        device: The device.
        superlink: What it connects to, host:port.
        root: Certificate that it trusts there; None: plaintext.

    Raises:
        UsageError: Flower is not installed beside this program.
    """
    program = Path(sys.executable).with_name("flower-supernode")
    found = str(program) if program.exists() else shutil.which("flower-supernode")
    if not found:
        raise UsageError(f"flower-supernode is not installed: {install_command('node')}")
    # Flower reads these as TOML values; JSON's quoting of a string is TOML's too.
    settings = {NODE_ID: device.node_id, DATA_SOURCE: str(device.data.resolve())}
    if device.profile is not None:
        settings[PROFILE] = str(device.profile.resolve())
    if device.certificates is not None:
        settings[CERTIFICATES_DIR] = str(device.certificates.resolve())
    node_config = " ".join(f"{key}={json.dumps(value)}" for key, value in settings.items())
    command = [found, "--superlink", superlink, "--node-config", node_config]
    command += ["--host", "127.0.0.1", "--port", str(find_free_port())]
    if device.certificates is None or root is None:
        return [*command, "--insecure"]
    command += ["--root-certificates", str(root)]
    return [*command, "--auth-supernode-private-key", str(device.certificates / FLOWER_KEY)]


def build_environment(device: Device, environment: Mapping[str, str]) -> dict[str, str]:
    """Bounds threads and names the folders that everything below the SuperNode uses."""
    threads = dict.fromkeys(_THREAD_LIMITS, str(device.num_threads))
    home = (device.home or default_home()).resolve()
    return {
        **environment,
        **threads,
        # The forwarder is on loopback, which a proxy does not reach.
        **dict.fromkeys(("NO_PROXY", "no_proxy"), _without_proxy(environment)),
        "FEDSTILL_HOME": str(home),
        "FLWR_HOME": str(home / "flower"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        TASK_POLL: environment.get(TASK_POLL, TASK_POLL_SECONDS),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}",
    }


def _without_proxy(environment: Mapping[str, str]) -> str:
    known = environment.get("no_proxy") or environment.get("NO_PROXY")
    return ",".join(filter(None, (known, "127.0.0.1", "localhost")))


def pauses() -> Iterator[float]:
    """Yields the pauses before the next starts, seconds."""
    pause = FIRST_PAUSE_SECONDS
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def run_device(device: Device) -> int:
    """Keeps a SuperNode alive until SIGINT or SIGTERM.

    Args:
        device: The device.

    Returns:
        0 after SIGTERM; SIGINT raises `KeyboardInterrupt` as everywhere.

    Raises:
        UsageError: Flower is not installed.
    """
    stopping = starting = False

    def stop(_signal: int, _frame: object) -> None:
        nonlocal stopping
        stopping = True
        if not starting:  # a SuperNode that is being started has no name yet, and would be left behind
            raise SystemExit(0)

    def live_once() -> int:
        nonlocal starting
        with connecting(device) as (superlink, root):
            starting = True
            process = start_supernode(device, superlink, root)
            try:
                starting = False
                if stopping:
                    raise SystemExit(0)
                return process.wait()
            finally:
                end_process_group(process)

    previous = signal.signal(signal.SIGTERM, stop)
    os.nice(device.niceness)  # what is started below inherits it
    waits = pauses()
    try:
        while True:
            started = time.monotonic()
            code = live_once()
            if time.monotonic() - started > WELL_SECONDS:
                waits = pauses()
            pause = next(waits)
            cause = explain_end(device.superlink, node_id=device.node_id, certificates=device.certificates)
            _log.warning("the SuperNode ended with code %d; starting again in %g s. %s", code, pause, cause)
            time.sleep(pause)
    except SystemExit:
        if stopping:
            return 0
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def connecting(device: Device) -> Iterator[tuple[str, Path | None]]:
    """Opens a device's way to its coordinator; arguments of `build_command` come out."""
    if device.certificates is None:
        yield device.superlink, None
        return
    from fedstill.clients.forwarder import forwarding

    explain = functools.partial(
        find_fault, device.superlink, node_id=device.node_id, certificates=device.certificates
    )
    with forwarding(device.superlink, device.certificates, explain=explain) as way:
        yield way


def start_supernode(device: Device, superlink: str, root: Path | None) -> subprocess.Popen[bytes]:
    """Starts Flower's SuperNode in a session of its own; arguments as of `build_command`."""
    return subprocess.Popen(  # noqa: S603 the command is built above
        build_command(device, superlink, root),
        env=build_environment(device, os.environ),
        start_new_session=True,
    )


def end_process_group(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and all that it started in its session: asked first, killed after a grace."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
