"""The HTTP server that Prometheus scrapes, and how it is discovered."""

from __future__ import annotations

import errno
import json
import socket
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder

from fedstill.common.errors import UsageError
from fedstill.common.files import write_text_atomically
from fedstill.server.metrics.run import RunMetrics

SCRAPER_HEADER = "X-Prometheus-Scrape-Timeout-Seconds"
"""Sent by Prometheus and by what scrapes like it, and by nobody who only looks."""
PAGES = ("/metrics", "/metrics/nodes")


class _Handler(BaseHTTPRequestHandler):
    metrics: RunMetrics
    endpoint: MetricsEndpoint
    timeout = 10

    def do_GET(self) -> None:
        path = self.path.split("?", 1)[0]
        begin = time.monotonic()
        if path == "/metrics":
            encode, content_type = choose_encoder(self.headers.get("Accept", ""))
            self._answer(200, content_type, encode(self.metrics.registry))
        elif path == "/metrics/nodes":
            self._answer(200, CONTENT_TYPE_PLAIN_0_0_4, self.metrics.render_nodes())
        elif path == "/targets":
            self._answer(200, "application/json", self.endpoint.render_targets().encode())
        else:
            self._answer(
                404, "text/plain; charset=utf-8", b"Here are /metrics, /metrics/nodes and /targets.\n"
            )
        if path in PAGES and SCRAPER_HEADER in self.headers:
            self.endpoint.note_scrape(path, begin)

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        return "fedstill"

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are no news."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        # HTTPServer's own looks its name up, which can hang for seconds without DNS.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A scraper that hangs up is its own affair."""


class MetricsEndpoint:
    """Serves /metrics, /metrics/nodes and /targets from a thread of its own.

    Args:
        metrics: What to serve.
        host: Address to bind.
        port: Port to bind; 0 takes a free one.
        targets_dir: A folder of Prometheus' file discovery, which names this endpoint while it
            serves; None names it nowhere.
    """

    def __init__(self, metrics: RunMetrics, *, host: str, port: int, targets_dir: Path | None = None) -> None:
        self._metrics = metrics
        self._host = host
        self._port = port
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._address = ""
        self._targets_dir = targets_dir
        self._target_file: Path | None = None
        self._scrapes: dict[str, float] = {}
        self._scraped = threading.Condition()

    @property
    def address(self) -> str:
        """The bound host:port; empty before `start`."""
        return self._address

    def start(self) -> None:
        """Binds and serves.

        Raises:
            UsageError: The port is taken or the address is not this machine's.
        """
        handler = type("Handler", (_Handler,), {"metrics": self._metrics, "endpoint": self})
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        server_class = type("Server", (_Server,), {"address_family": family})
        where = f"[{self._host}]" if ":" in self._host else self._host
        try:
            server = server_class((self._host, self._port), handler)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                taken = f"monitoring.port: {where}:{self._port} is taken"
                problem = f"{taken}; choose another port, or 0 for a free one"
            else:
                problem = (
                    f"cannot serve metrics on {where}:{self._port} ({error.strerror});"
                    " set monitoring.host and monitoring.port to an address of this machine"
                )
            raise UsageError(problem) from None
        self._server = server
        self._address = f"{where}:{server.server_port}"
        self._thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="metrics", daemon=True
        )
        self._thread.start()
        if self._targets_dir is not None:
            self._target_file = self._targets_dir / f"{self._metrics.run_id}.json"
            write_text_atomically(self._target_file, self.render_targets())

    def render_targets(self) -> str:
        """Says where this endpoint is, as Prometheus' file and HTTP discovery read it."""
        labels = {"run_id": self._metrics.run_id} if self._metrics.run_id else {}
        return json.dumps([{"targets": [self._address], "labels": labels}]) + "\n"

    def note_scrape(self, page: str, begin: float) -> None:
        """Remembers that a page was scraped; `begin` is when it was asked for, on the monotonic clock."""
        with self._scraped:
            self._scrapes[page] = begin
            self._scraped.notify_all()

    def await_scrape(self, timeout_seconds: float) -> bool:
        """Waits until Prometheus has scraped both pages as they are now.

        Args:
            timeout_seconds: Longest wait.

        Returns:
            Whether it has.
        """
        now = time.monotonic()
        with self._scraped:
            return self._scraped.wait_for(
                lambda: all(self._scrapes.get(page, -1.0) >= now for page in PAGES), timeout_seconds
            )

    def stop(self) -> None:
        """Stops serving and frees the port; may be called twice."""
        if self._server is None or self._thread is None:
            return
        if self._target_file is not None:
            self._target_file.unlink(missing_ok=True)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._server = self._thread = None
