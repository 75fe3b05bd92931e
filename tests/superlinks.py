"""A real SuperLink behind its doors, as a coordinator starts it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedstill.common.dialing import find_free_port
from fedstill.server.deployment.flower_programs import flower_environment, superlink_command
from fedstill.server.deployment.site import Site, copy_certificates, write_secrets
from fedstill.server.deployment.supervision import _end, _Part, _start, _wait_for_port


def make_site(home: Path, certificates: Path | None = None) -> Site:
    """Makes a site on free ports of loopback, with its secrets and copies of its certificates."""
    site = Site(home, "127.0.0.1", find_free_port(), certificates, find_free_port())
    write_secrets(site)
    copy_certificates(site)
    return site


@contextmanager
def running_superlink(site: Site) -> Iterator[_Part]:
    """Runs its SuperLink until the block ends."""
    part = _Part("superlink", superlink_command(site))
    try:
        _start(part, site, flower_environment(site, os.environ))
        _wait_for_port(site, part)
        yield part
    finally:
        _end(part)
