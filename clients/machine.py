"""Which nodes share a machine: they must not disturb each other's latencies."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def name_machine(boot_id: Path = BOOT_ID) -> str:
    """Names this machine, the same for all nodes on it and for none elsewhere.

    Containers have a host name each, and cloned devices have the same one; Linux draws its boot
    id once per start, for all containers. Other systems give their host name.

    Args:
        boot_id: Where the kernel tells it.
    """
    with suppress(OSError):
        return boot_id.read_text(encoding="ascii").strip()
    return socket.gethostname()
