"""Flower's programs as a coordinator starts them: command lines and environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from fedstill.common.certificates import CA_CERTIFICATE
from fedstill.common.errors import UsageError
from fedstill.common.flower import TASK_POLL, TASK_POLL_SECONDS
from fedstill.common.installation import install_command
from fedstill.server.deployment.site import SECRET_FILE, Site

SUPERLINK = "fedstill.server.deployment.superlink"


def superlink_command(site: Site) -> list[str]:
    """Builds the command line of the SuperLink and its doors."""
    command = [sys.executable, "-m", SUPERLINK, "--home", str(site.home)]
    command += ["--host", site.host, "--port", str(site.port), "--operator-port", str(site.operator_port)]
    if site.tls is not None:
        command += ["--tls", str(site.tls)]
    return [*command, "--has-fleet"] if site.has_fleet else command


def superexec_command(site: Site) -> list[str]:
    """Builds the SuperExec's command line."""
    command = [find_program("flower-superexec"), "--runtime-api-address", site.operator_address]
    command += ["--superexec-auth-secret-file", str(site.home / SECRET_FILE)]
    trust = ["--insecure"] if site.tls is None else ["--root-certificates", str(site.tls / CA_CERTIFICATE)]
    return [*command, *trust]


def find_program(name: str) -> str:
    """Finds a program of this environment.

    Raises:
        UsageError: It is not installed.
    """
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise UsageError(f"{name} is not installed beside {sys.executable}: {install_command('server')}")
    return str(path)


def flower_environment(site: Site, environment: Mapping[str, str]) -> dict[str, str]:
    """Gives Flower a home of its own and spares it what needs the network."""
    return {
        **environment,
        "FLWR_HOME": str((site.home / "flower").resolve()),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        TASK_POLL: environment.get(TASK_POLL, TASK_POLL_SECONDS),
        # At this level gRPC says why a node's handshake failed (`run/stderr.py`); the node is not told.
        **({"GRPC_VERBOSITY": "INFO"} if site.certificates is not None else {}),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}",
    }
