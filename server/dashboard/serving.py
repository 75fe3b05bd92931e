"""Binds the dashboard to an address, carefully, and serves it until interrupted."""

from __future__ import annotations

import errno
import ipaddress
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from fedstill.common.errors import UsageError
from fedstill.server.dashboard.app import make_app

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
MIN_TOKEN_LETTERS = 16


@dataclass(frozen=True)
class Binding:
    """Where the dashboard listens and who may look.

    Attributes:
        host: Address to bind.
        port: Port to bind; 0 takes a free one.
        token: What those who look have to know; empty lets everyone in.
    """

    host: str
    port: int
    token: str

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def check_binding(host: str, port: int, token: str) -> Binding:
    """Makes sure that what other machines can reach has a token.

    Args:
        host: Address to bind.
        port: Port to bind; 0 takes a free one.
        token: As the user gave it; empty for none.

    Returns:
        The binding, with a fresh token where one is needed and none was given.

    Raises:
        UsageError: The token is too short for other than loopback.
    """
    binding = Binding(host, port, token)
    if binding.is_loopback:
        return binding
    if not token:
        return Binding(host, port, secrets.token_urlsafe(24))
    if len(token) < MIN_TOKEN_LETTERS:
        raise UsageError(
            f"expected a token of {MIN_TOKEN_LETTERS} letters or more for {host}, got {len(token)};"
            " leave --token out and one is made"
        )
    return binding


def serve_dashboard(root: Path, binding: Binding, *, say: Callable[[str], object]) -> None:
    """Serves the runs of a folder until interrupted.

    Args:
        root: The folder, or one run folder.
        binding: From `check_binding`.
        say: Told the address once, in a line.

    Raises:
        UsageError: The folder is missing, the port is taken or the address is not this machine's.
    """
    if not root.is_dir():
        raise UsageError(f"expected a folder of runs, {root} is none; `fedstill simulate` fills one")
    hosts = LOOPBACK_NAMES | {binding.host} if binding.is_loopback else None
    app = make_app(root, token=binding.token, hosts=hosts)
    with _bind(binding) as listener:
        port = listener.getsockname()[1]
        where = f"[{binding.host}]" if ":" in binding.host else binding.host
        # Behind the # a browser keeps the token to itself: no server, proxy or log sees it.
        entrance = f"/login#{binding.token}" if binding.token else "/"
        say(f"dashboard of {root} on http://{where}:{port}{entrance}")
        if not binding.is_loopback:
            say("other machines can reach it, in plaintext: put TLS in front, or stay on loopback and tunnel")
        make_server(app).run(sockets=[listener])


def make_server(app: ASGIApp) -> uvicorn.Server:
    """Prepares the HTTP server: no log of its own, no WebSockets, streams cut off when it ends."""
    config = uvicorn.Config(
        app,
        log_level="critical",
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)


def _bind(binding: Binding) -> socket.socket:
    family = socket.AF_INET6 if ":" in binding.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((binding.host, binding.port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            problem = f"{binding.host}:{binding.port} is taken; choose another --port, or 0 for a free one"
        else:
            problem = (
                f"cannot serve on {binding.host}:{binding.port} ({error.strerror}); see --host and --port"
            )
        raise UsageError(problem) from None
    return listener
