"""The way from a device's SuperNode to its coordinator: on loopback, with the device's certificate.

    SuperNode  --TLS, loopback-->  forwarder  --TLS, node.crt-->  coordinator's devices' door

Flower's SuperNode shows no certificate, so this does. It passes on what a SuperNode calls and nothing
else, and an app only if the device's authority signed it: what comes of another never reaches the
SuperNode. Flower takes a refused app for one whose run is over, and goes on.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from flwr.common.serde import user_config_from_proto
from flwr.proto.fab_pb2 import GetFabResponse
from flwr.proto.run_pb2 import GetRunResponse
from google.protobuf.message import DecodeError
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from fedstill.common.app_signature import APP_SIGNATURE, digest_app, is_signed
from fedstill.common.beside import served_beside
from fedstill.common.certificates import (
    CA_CERTIFICATE,
    NODE_CERTIFICATE,
    NODE_KEY,
    certificate_pem,
    key_pem,
    read_certificate,
)
from fedstill.common.dialing import split_address
from fedstill.common.errors import UsageError
from fedstill.common.files import stamp_files

FLEET_ROUTES = "/v1/fleet/"
GET_RUN, GET_FAB = FLEET_ROUTES + "get-run", FLEET_ROUTES + "get-fab"
UPSTREAM_SECONDS = 30.0  # as Flower's own client waits
SAY_SECONDS = 60.0
CERTIFICATE_DAYS = 3650
# Of one hop, not of the message; the body is passed on whole.
HOP_HEADERS = frozenset(
    {"connection", "content-encoding", "content-length", "host", "keep-alive", "transfer-encoding"}
)
_FILES = (CA_CERTIFICATE, NODE_CERTIFICATE, NODE_KEY)
_CALL = re.compile(FLEET_ROUTES + r"[a-z-]+")
_log = logging.getLogger(__name__)


class AppGuard:
    """Knows which apps a device may run: those that its authority signed.

    Args:
        authority: The authority's certificate.
    """

    def __init__(self, authority: x509.Certificate) -> None:
        self._authority = authority
        self._allowed: set[str] = set()

    def find_fault(self, path: str, content: bytes) -> str | None:
        """Looks at an answer of the coordinator.

        Args:
            path: What was asked.
            content: The answer.

        Returns:
            Why it must not reach the SuperNode; None where it may.
        """
        try:
            if path == GET_RUN:
                return self._check_run(GetRunResponse.FromString(content))
            if path == GET_FAB:
                return self._check_app(GetFabResponse.FromString(content))
        except DecodeError:
            return "what the coordinator answered is not what was asked for"
        return None

    def _check_run(self, answer: GetRunResponse) -> str | None:
        run = answer.run
        signature = user_config_from_proto(run.override_config).get(APP_SIGNATURE, "")
        if not is_signed(run.fab_hash, str(signature), authority=self._authority):
            app = run.fab_hash[:16]
            return f"run {run.run_id} brings an app that this device's authority did not sign ({app})"
        self._allowed.add(run.fab_hash)
        return None

    def _check_app(self, answer: GetFabResponse) -> str | None:
        if (digest := digest_app(answer.fab.content)) not in self._allowed:
            return f"the app that came is not the one that was signed ({digest[:16]})"
        return None


class Forwarder:
    """Passes a SuperNode's calls on; an ASGI app.

    Args:
        superlink: The coordinator's devices' door, host:port.
        certificates: The device's bundle, read anew where it changed.
        explain: Says why the coordinator is not reached, or None where that cannot be seen.
    """

    def __init__(self, superlink: str, certificates: Path, *, explain: Callable[[], str | None]) -> None:
        host, port = split_address(superlink)
        self._url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        self._folder = certificates
        self._explain = explain
        self._guard: AppGuard
        self._client: httpx.AsyncClient | None = None
        self._stamp: tuple[tuple[int, int, int] | None, ...] = ()
        self._said_at = -SAY_SECONDS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one call, or the server's beginning and end."""
        if scope["type"] == "http":
            response = await self._answer(Request(scope, receive))
            await response(scope, receive, send)
        elif scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            if self._client is not None:
                await self._client.aclose()
            await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, request: Request) -> Response:
        path = request.scope["path"]
        if request.method != "POST" or not _CALL.fullmatch(path):
            return PlainTextResponse("not found", 404)
        headers, content = _end_to_end(request.headers), await request.body()
        try:
            client = await self._fresh_client()
            answer = await client.post(path, content=content, headers=headers)
        except (
            httpx.HTTPError,
            RuntimeError,
            OSError,
            UsageError,
        ) as error:  # RuntimeError: closed
            await self._say_why(error)
            return PlainTextResponse("the coordinator is not reached", 503)
        if 300 <= answer.status_code < 400:
            # Flower's client would follow it, past what is looked at here.
            _log.error("refused: the coordinator sends this device elsewhere (%d)", answer.status_code)
            return PlainTextResponse("the coordinator answers with a redirection", 502)
        if answer.is_success and (fault := self._guard.find_fault(path, answer.content)):
            _log.error("refused: %s", fault)
            return PlainTextResponse(fault, 403)
        shown = {name: value for name, value in answer.headers.items() if name.lower() == "content-type"}
        return Response(answer.content, answer.status_code, shown)

    async def _fresh_client(self) -> httpx.AsyncClient:
        stamp = stamp_files(self._folder, _FILES)
        if self._client is None or stamp != self._stamp:
            context = ssl.create_default_context(cafile=str(self._folder / CA_CERTIFICATE))
            context.load_cert_chain(self._folder / NODE_CERTIFICATE, self._folder / NODE_KEY)
            old, self._stamp = self._client, stamp
            self._guard = AppGuard(read_certificate(self._folder / CA_CERTIFICATE))
            self._client = httpx.AsyncClient(
                base_url=self._url,
                verify=context,
                timeout=UPSTREAM_SECONDS,
                trust_env=False,
                follow_redirects=False,
            )
            if old is not None:
                await old.aclose()
        return self._client

    async def _say_why(self, error: Exception) -> None:
        # Flower tries again every few seconds and does not say why.
        if time.monotonic() - self._said_at >= SAY_SECONDS:
            self._said_at = time.monotonic()
            cause = await asyncio.to_thread(self._explain) or f"{type(error).__name__}: {error}"
            _log.warning("no way to the coordinator; Flower tries again. %s", cause)


def _end_to_end(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in HOP_HEADERS}


@contextmanager
def forwarding(
    superlink: str, certificates: Path, *, explain: Callable[[], str | None]
) -> Iterator[tuple[str, Path]]:
    """Serves a forwarder on loopback for as long as the block lasts; arguments as of `Forwarder`.

    Yields:
        Its address, host:port, and the file of the certificate that it serves with, made for it alone.

    Raises:
        RunError: It did not start.
    """
    with tempfile.TemporaryDirectory(prefix="fedstill-forwarder-") as name:
        folder = Path(name)
        context = _make_context(folder)
        app = Forwarder(superlink, certificates, explain=explain)
        settings = uvicorn.Config(
            app,
            host="127.0.0.1",
            port=0,
            lifespan="on",
            loop="asyncio",
            ws="none",
            log_config=None,
            access_log=False,
            ssl_context_factory=lambda _config, _default: context,
        )
        with served_beside(settings) as port:
            yield f"127.0.0.1:{port}", folder / "loopback.crt"


def _make_context(folder: Path) -> ssl.SSLContext:
    """Makes a certificate for 127.0.0.1; its key is on disk for a moment, in a folder of its owner's."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedstill forwarder")])
    now = datetime.now(UTC)
    loopback = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=CERTIFICATE_DAYS))  # a device's clock may be set later
        .not_valid_after(now + timedelta(days=CERTIFICATE_DAYS))
        .add_extension(loopback, critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "loopback.key"
    path.write_bytes(key_pem(key))
    (folder / "loopback.crt").write_bytes(certificate_pem(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "loopback.crt", path)
    path.unlink()
    return context
