"""Opening a connection to host:port, which coordinator and devices both probe before they trust a library."""

from __future__ import annotations

import socket


def split_address(address: str) -> tuple[str, int]:
    """Splits host:port; an IPv6 host may stand in brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def find_free_port() -> int:
    """Finds a port on loopback that nobody has at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def dial(address: str, *, timeout_seconds: float) -> socket.socket:
    """Opens a connection; an `OSError` says why there is none."""
    return socket.create_connection(split_address(address), timeout=timeout_seconds)
