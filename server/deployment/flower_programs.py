"""Flower's programs as a coordinator starts them: command lines, environment, the files they share."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from fedstill.common.certificates import is_loopback
from fedstill.common.config import Config, flatten
from fedstill.common.errors import UsageError
from fedstill.common.files import write_text_atomically
from fedstill.common.flower import TASK_POLL, TASK_POLL_SECONDS
from fedstill.common.installation import install_command
from fedstill.server.deployment.flower_app import app_folder, write_app
from fedstill.server.pki.authority import FLEET, first_host

CONNECTION = "coordinator"
SECRET_FILE = "superexec.secret"  # noqa: S105 its name


@dataclass(frozen=True)
class Site:
    """Where a coordinator lives.

    Attributes:
        home: Its folder.
        host: Address that the SuperLink binds.
        port: Its port.
        certificates: Folder that `fedstill certs init` filled; None: plaintext.
        authenticate: Only nodes whose public keys were registered may come; the enrolled ones
            of an authority's folder are, without being told.
    """

    home: Path
    host: str
    port: int
    certificates: Path | None = None
    authenticate: bool = False

    @property
    def address(self) -> str:
        """host:port of the SuperLink, as seen from this machine."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::", "") else self.host  # noqa: S104 no binding
        return f"{host}:{self.port}"


def check_exposure(site: Site) -> None:
    """Refuses plaintext on other than loopback, and authentication without certificates.

    Raises:
        UsageError: The SuperLink would serve other machines in the clear.
    """
    if site.certificates is not None:
        return
    if site.authenticate:
        raise UsageError("--authenticate needs TLS: give --certificates")
    if not is_loopback(site.host):
        raise UsageError(f"--host {site.host} would serve other machines in plaintext: give --certificates")


def secure(config: Config, site: Site) -> Config:
    """Lets the label service use the SuperLink's certificates, and be reached where it is.

    Args:
        config: The run's configuration.
        site: Where the coordinator lives.

    Returns:
        The configuration with `exchange.certificates_dir`; where the SuperLink serves other
        machines and the configuration says nothing else, the label service does too.
    """
    if site.certificates is None:
        return config
    exchange: dict[str, Any] = {"certificates_dir": str(site.certificates)}
    if is_loopback(config.exchange.host) and not is_loopback(site.host):
        exchange["host"] = site.host
        exchange["advertise_address"] = config.exchange.advertise_address or first_host(site.certificates)
    updated = config.exchange.model_copy(update=exchange)
    return config.model_copy(update={"exchange": updated})


def superlink_command(site: Site) -> list[str]:
    """Builds the SuperLink's command line."""
    command = [find_program("flower-superlink"), "--isolation", "process"]
    command += ["--database", str(site.home / "superlink.db")]
    command += ["--host", site.host, "--port", str(site.port), "--disable-runtime-dependency-installation"]
    if site.certificates is None:
        return [*command, "--insecure"]
    for option, name in (("certfile", "server.crt"), ("keyfile", "server.key"), ("ca-certfile", "ca.crt")):
        command += [f"--ssl-{option}", str(site.certificates / name)]
    command += ["--superexec-auth-secret-file", str(site.home / SECRET_FILE)]
    return [*command, "--enable-supernode-auth"] if is_authenticated(site) else command


def is_authenticated(site: Site) -> bool:
    """Says whether the SuperLink takes registered SuperNodes only."""
    return site.authenticate or (site.certificates is not None and (site.certificates / FLEET).is_file())


def superexec_command(site: Site) -> list[str]:
    """Builds the SuperExec's command line."""
    command = [find_program("flower-superexec"), "--runtime-api-address", site.address]
    return [*command, *_trust(site)]


def _trust(site: Site) -> list[str]:
    if site.certificates is None:
        return ["--insecure"]
    trust = ["--root-certificates", str(site.certificates / "ca.crt")]
    return [*trust, "--superexec-auth-secret-file", str(site.home / SECRET_FILE)]


def find_program(name: str) -> str:
    """Finds a program of this environment.

    Raises:
        UsageError: It is not installed.
    """
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise UsageError(f"{name} is not installed beside {sys.executable}: {install_command('server')}")
    return str(path)


def submit_command(site: Site, config: Config, run_dir: Path, *, resume: bool) -> list[str]:
    """Builds the command line that hands the app in the site's home and a run to the SuperLink."""
    settings: dict[str, Any] = flatten(config) | {
        "run.dir": str(run_dir.resolve()),
        "run.id": run_dir.name,
        "run.resume": resume,
    }
    values = " ".join(f"{key}={json.dumps(value)}" for key, value in settings.items())
    command = [find_program("flwr"), "run", str(app_folder(site.home)), CONNECTION]
    return [*command, "--run-config", values, "--format", "json"]


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


def furnish_home(site: Site, config: Config) -> None:
    """Writes what `flwr run` needs: the app with a run's modules, and a connection to the SuperLink."""
    write_app(site.home, config)
    write_connection(site)


def write_connection(site: Site) -> Path:
    """Writes Flower's configuration, so that `flwr` finds the SuperLink under one name.

    With certificates also the secret that SuperLink and SuperExec share: others that reach
    the port cannot take a ServerApp's work from it.
    """
    trust: dict[str, Any] = {"insecure": True}
    if site.certificates is not None:
        if not (site.home / SECRET_FILE).exists():
            write_text_atomically(site.home / SECRET_FILE, secrets.token_hex(32), mode=0o600)
        trust = {"root-certificates": str((site.certificates / "ca.crt").resolve())}
    path = site.home / "flower" / "config.toml"
    connection = {"address": site.address} | trust
    content = {"superlink": {"default": CONNECTION, CONNECTION: connection}}
    write_text_atomically(path, tomli_w.dumps(content))
    return path
