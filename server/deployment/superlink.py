"""Flower's SuperLink behind two doors of its own: `python -m fedstill.server.deployment.superlink`.

    devices' door     --host:--port          `/v1/fleet` and `/health`, nothing else; with certificates only
                                             for those that the authority issued and did not revoke
    operator's door   127.0.0.1:--operator-port   `/v1/control` with the operator's token; `/v1/runtime`,
                                             which Flower itself guards by the SuperExec's secret and
                                             the tokens of tasks

Flower serves all of these on one port, to whoever reaches it. Its app is taken as it is and served
twice; `tests/server/deployment/test_superlink.py` holds what is leant on here to its word.
Certificates are read anew with each connection where they changed, so that a renewed one is served
and a revoked one refused without a restart.
"""

from __future__ import annotations

import argparse
import hmac
import logging
import ssl
import sys
from collections.abc import Callable
from pathlib import Path

import uvicorn
from flwr.supercore.http_logging import get_uvicorn_log_config
from flwr.supercore.logger import console_handler
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan, _parse_superlink_lifespan_config
from flwr.superlink.main import create_app
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from fedstill.common.beside import served_beside
from fedstill.common.certificates import (
    CA_CERTIFICATE,
    COORDINATOR_FILES,
    REVOKED,
    SERVER_CERTIFICATE,
    SERVER_KEY,
)
from fedstill.common.files import stamp_files
from fedstill.server.deployment.site import OPERATOR_HOST, OPERATOR_TOKEN, SECRET_FILE

_log = logging.getLogger(__name__)
HEALTH = "/health"
FLEET_ROUTES, CONTROL_ROUTES, RUNTIME_ROUTES = "/v1/fleet/", "/v1/control/", "/v1/runtime/"


def devices_door(app: ASGIApp) -> ASGIApp:
    """Lets pass what a SuperNode calls, and the health check.

    Args:
        app: All that a SuperLink serves.

    Returns:
        The app, in which everything else is not found.
    """

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        is_call = scope["type"] == "http" and (path.startswith(FLEET_ROUTES) or path == HEALTH)
        if is_call or scope["type"] == "lifespan":
            await app(scope, receive, send)
        else:
            await _refuse(404, "not found", scope, receive, send)

    return serve


def operators_door(app: ASGIApp, token: str) -> ASGIApp:
    """Lets pass the operator's calls, and those that Flower authenticates by itself.

    Args:
        app: All that a SuperLink serves.
        token: What the operator shows: `Authorization: Bearer TOKEN`.

    Returns:
        The app, in which everything else is not found, and control is refused without the token.
    """
    expected = f"Bearer {token}".encode()

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        shown = Headers(scope=scope).get("authorization", "") if scope["type"] == "http" else ""
        if scope["type"] == "http" and (path.startswith(RUNTIME_ROUTES) or path == HEALTH):
            await app(scope, receive, send)
        elif scope["type"] != "http" or not path.startswith(CONTROL_ROUTES):
            await _refuse(404, "not found", scope, receive, send)
        elif hmac.compare_digest(shown.encode(), expected):
            await app(scope, receive, send)
        else:
            await _refuse(401, "this is the operator's", scope, receive, send)

    return serve


async def _refuse(status: int, said: str, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await PlainTextResponse(said, status)(scope, receive, send)
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": said})


def serving_context(folder: Path, *, asks_for_certificate: bool) -> ssl.SSLContext:
    """Makes a server's side of TLS that follows the files in a folder.

    Args:
        folder: ca.crt, server.crt and server.key, and revoked.crl where anything was revoked.
        asks_for_certificate: Only peers with a certificate of the authority may come.

    Returns:
        The context. A peer is checked against the files as they are when it connects; there are no
        session tickets, with which one could come again unchecked.
    """

    def read() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(folder / SERVER_CERTIFICATE, folder / SERVER_KEY)
        context.num_tickets = 0
        if asks_for_certificate:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(folder / CA_CERTIFICATE)
            if (folder / REVOKED).is_file():
                context.load_verify_locations(folder / REVOKED)
                context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        return context

    outer, newest = read(), read()
    stamp = stamp_files(folder, COORDINATOR_FILES)

    def follow(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> int | None:
        nonlocal newest, stamp
        if (now := stamp_files(folder, COORDINATOR_FILES)) != stamp:
            try:
                newest, stamp = read(), now
            except OSError as error:  # being replaced; the next connection looks again
                _log.warning("the certificates from before stay in use: %s", error)
        # OpenSSL takes over certificate and authorities of a context, not whether it asks for the list:
        # a process that began without one cannot look at it.
        if newest.verify_flags != outer.verify_flags:
            return ssl.AlertDescription.ALERT_DESCRIPTION_INTERNAL_ERROR
        connection.context = newest
        return None

    outer.sni_callback = follow  # called with every handshake, whether a name is sent or not
    return outer


def flower_arguments(home: Path, *, host: str, port: int, tls: Path | None, has_fleet: bool) -> list[str]:
    """Builds what Flower's own command would be given.

    Args:
        home: The coordinator's folder.
        host: Address of the devices' door.
        port: Its port.
        tls: Folder of the certificates; None: plaintext.
        has_fleet: Nodes are enrolled by an authority: no SuperNode with another key may come.
    """
    arguments = ["--isolation", "process", "--database", str(home / "superlink.db")]
    arguments += ["--host", host, "--port", str(port), "--disable-runtime-dependency-installation"]
    arguments += ["--superexec-auth-secret-file", str(home / SECRET_FILE)]
    if tls is None:
        return [*arguments, "--insecure"]
    for option, name in (
        ("certfile", SERVER_CERTIFICATE),
        ("keyfile", SERVER_KEY),
        ("ca-certfile", CA_CERTIFICATE),
    ):
        arguments += [f"--ssl-{option}", str(tls / name)]
    return [*arguments, "--enable-supernode-auth"] if has_fleet else arguments


def serve(home: Path, *, host: str, port: int, operator_port: int, tls: Path | None, has_fleet: bool) -> None:
    """Serves both doors until it is told to end by a signal; arguments as of `flower_arguments`."""
    arguments = flower_arguments(home, host=host, port=port, tls=tls, has_fleet=has_fleet)
    sys.argv = ["flower-superlink", *arguments]
    config = _parse_superlink_lifespan_config()
    app = create_app(config, SuperLinkLifespan)

    def settings(door: ASGIApp, host: str, port: int, *, is_devices: bool) -> uvicorn.Config:
        context: Callable[..., ssl.SSLContext] | None = None
        if tls is not None:
            made = serving_context(tls, asks_for_certificate=is_devices)

            def context(_config: object, _default: object) -> ssl.SSLContext:
                return made

        return uvicorn.Config(
            door,
            host=host,
            port=port,
            lifespan="on" if is_devices else "off",  # the app's own things start once
            ws="none",
            log_config=get_uvicorn_log_config(console_handler.level),
            ssl_context_factory=context,
        )

    token = (home / OPERATOR_TOKEN).read_text(encoding="utf-8").strip()
    operators = settings(operators_door(app, token), OPERATOR_HOST, operator_port, is_devices=False)
    with served_beside(operators):
        uvicorn.Server(settings(devices_door(app), host, port, is_devices=True)).run()


def main() -> None:
    """Reads the command line and serves."""
    parser = argparse.ArgumentParser(prog="python -m fedstill.server.deployment.superlink")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--operator-port", type=int, required=True)
    parser.add_argument("--tls", type=Path)
    parser.add_argument("--has-fleet", action="store_true")
    given = parser.parse_args()
    serve(
        given.home,
        host=given.host,
        port=given.port,
        operator_port=given.operator_port,
        tls=given.tls,
        has_fleet=given.has_fleet,
    )


if __name__ == "__main__":
    main()
