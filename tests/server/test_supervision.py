"""A supervised SuperLink: it serves the certificate that is there now."""

from __future__ import annotations

import os
import socket
import ssl
from pathlib import Path

import pytest

from server.authority import init_authority, renew_server
from server.flower_programs import Site, flower_environment, superlink_command, write_connection
from server.supervision import _end, _keep_alive, _Part, _start, _wait_for_port


@pytest.mark.slow
def test_a_renewed_certificate_is_taken_up_and_a_dead_superlink_is_started_again(tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    init_authority(folder)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    site = Site(tmp_path / "home", "127.0.0.1", port, folder)
    write_connection(site)
    environment = flower_environment(site, os.environ)
    part = _Part("superlink", superlink_command(site), folder / "server.crt")
    said: list[str] = []

    def served() -> str:
        _wait_for_port(site, part)
        return ssl.get_server_certificate(("127.0.0.1", port), timeout=10)

    try:
        _start(part, site, environment)
        assert served() == (folder / "server.crt").read_text()
        assert _keep_alive([part], site, environment, said.append) == []
        renew_server(folder)
        assert _keep_alive([part], site, environment, said.append) == ["superlink"]
        assert served() == (folder / "server.crt").read_text()
        assert part.process
        part.process.kill()
        part.process.wait()
        assert _keep_alive([part], site, environment, said.append) == ["superlink"]
        assert served()
    finally:
        _end(part)
    assert said == [
        "the superlink takes up its new certificate and is started again",
        "the superlink ended with code -9 and is started again",
    ]
