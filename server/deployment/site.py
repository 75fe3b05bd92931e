"""Where a coordinator lives: its folder, its doors, and what its processes may see.

<home>/tls/              ca.crt, server.crt, server.key, revoked.crl and fleet.json, as the authority's
                         folder has them now; its key stays where it is
<home>/operator.token    what opens the SuperLink's control routes; new with each start
<home>/superexec.secret  what SuperLink and SuperExec share; new with each start
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedstill.common.certificates import COORDINATOR_FILES, REVOKED, is_loopback
from fedstill.common.config import Config
from fedstill.common.errors import UsageError
from fedstill.common.files import write_bytes_atomically, write_text_atomically
from fedstill.server.labels.transport import ServerCertificates
from fedstill.server.pki.authority import FLEET, first_host

TLS = "tls"
OPERATOR_TOKEN = "operator.token"  # noqa: S105 its file's name
SECRET_FILE = "superexec.secret"  # noqa: S105 its name
OPERATOR_HOST = "127.0.0.1"
_PRIVATE = 0o600


@dataclass(frozen=True)
class Site:
    """Where a coordinator lives.

    Attributes:
        home: Its folder.
        host: Address of the devices' door.
        port: Its port.
        certificates: Folder that `fedstill certs init` filled; None: plaintext.
        operator_port: Port of the operator's door, on loopback.
    """

    home: Path
    host: str
    port: int
    certificates: Path | None = None
    operator_port: int = 0

    @property
    def address(self) -> str:
        """host:port of the devices' door, as seen from this machine."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::", "") else self.host  # noqa: S104 no binding
        return f"{host}:{self.port}"

    @property
    def operator_address(self) -> str:
        """host:port of the operator's door."""
        return f"{OPERATOR_HOST}:{self.operator_port}"

    @property
    def tls(self) -> Path | None:
        """Folder of the certificates as the coordinator's processes see them; None: plaintext."""
        return None if self.certificates is None else self.home / TLS

    @property
    def has_fleet(self) -> bool:
        """Whether an authority says which SuperNodes may come."""
        return self.certificates is not None and (self.certificates / FLEET).is_file()


def check_site(site: Site) -> None:
    """Refuses what cannot be served, or not safely.

    Raises:
        UsageError: The SuperLink would serve other machines in the clear, or certificates lack or
            cannot be used.
    """
    if site.certificates is None:
        if not is_loopback(site.host):
            raise UsageError(
                f"--host {site.host} would serve other machines in plaintext: give --certificates"
            )
        return
    for name in COORDINATOR_FILES:
        if name != REVOKED and not (site.certificates / name).is_file():
            raise UsageError(
                f"{site.certificates} holds no {name}; it needs ca.crt, server.crt and server.key"
            )
    ServerCertificates(site.certificates)  # says what is wrong with them


def secure(config: Config, site: Site) -> Config:
    """Lets the label service use the coordinator's certificates, and be reached where the SuperLink is.

    Args:
        config: The run's configuration.
        site: Where the coordinator lives.

    Returns:
        The configuration with `exchange.certificates_dir`; where the SuperLink serves other
        machines and the configuration says nothing else, the label service does too.
    """
    if site.certificates is None:
        return config
    exchange: dict[str, Any] = {"certificates_dir": str(site.tls)}
    if is_loopback(config.exchange.host) and not is_loopback(site.host):
        exchange["host"] = site.host
        exchange["advertise_address"] = config.exchange.advertise_address or first_host(site.certificates)
    updated = config.exchange.model_copy(update=exchange)
    return config.model_copy(update={"exchange": updated})


def write_secrets(site: Site) -> None:
    """Makes the operator's token and the SuperExec's secret, new ones; only their owner can read them."""
    site.home.mkdir(parents=True, exist_ok=True)
    for name in (OPERATOR_TOKEN, SECRET_FILE):
        write_text_atomically(site.home / name, secrets.token_hex(32), mode=_PRIVATE)


def copy_certificates(site: Site) -> None:
    """Brings what the coordinator's processes see up to date with the authority's folder, if it has one.

    A file that is missing there, being replaced or not readable just now stays as it is here.
    """
    if site.certificates is None or site.tls is None:
        return
    if not site.tls.is_dir():
        site.tls.mkdir(mode=0o700, parents=True)
    for name in (*COORDINATOR_FILES, FLEET):
        source, copy = site.certificates / name, site.tls / name
        try:
            content = source.read_bytes()
        except OSError:
            continue
        if not copy.is_file() or copy.read_bytes() != content:
            write_bytes_atomically(copy, content, mode=_PRIVATE)
