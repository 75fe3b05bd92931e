"""A real label service, and a line to it that can be cut, altered, silenced and counted."""

import contextlib
import socket
import threading

import numpy as np
import pytest

from fedstill.clients.labels import LabelCache
from fedstill.server.labels import LabelService, LabelStore

MARK = bytes([171]) * 64


class Line:
    """Forwards TCP to a service; faults apply to what comes back from it, flips to all.

    cut_after: bytes after which each of the next `num_cuts` connections is cut.
    cut_up_after: the same, in bytes that went to the service.
    num_flips: how many more times a byte inside MARK is altered.
    silent: nothing is forwarded while it is set.
    slow_after: bytes after which a connection creeps.
    """

    def __init__(self, target):
        self.target = target
        self.cut_after, self.num_cuts, self.num_flips = 0, 0, 0
        self.silent = threading.Event()
        self.slow_after = self.cut_up_after = float("inf")
        self.num_bytes = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        self._sockets = []
        self._threads = []
        self._start(self._accept)

    def _start(self, work, *arguments):
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                try:
                    host, _, port = self.target.rpartition(":")
                    far = socket.create_connection((host, int(port)))
                except OSError:
                    near.close()
                    continue
                self._sockets += [near, far]
                self._start(self._forward, near, far, False)
                self._start(self._forward, far, near, True)

    def _forward(self, source, sink, from_service):
        seen = 0
        with contextlib.suppress(OSError):
            while content := source.recv(65_536):
                if self.num_flips and MARK in content:
                    self.num_flips -= 1
                    content = content.replace(MARK, b"\0" + MARK[1:], 1)
                if not from_service:
                    seen += len(content)
                    if self.num_cuts and seen > self.cut_up_after:
                        self.num_cuts -= 1
                        break
                else:
                    while self.silent.is_set():
                        threading.Event().wait(0.01)
                    self.num_bytes += len(content)
                    seen += len(content)
                    if seen > self.slow_after:
                        threading.Event().wait(0.2)
                    if self.num_cuts and seen > self.cut_after:
                        self.num_cuts -= 1
                        break
                sink.sendall(content)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.silent.clear()
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(timeout=5)
        for end in self._sockets:
            end.close()


@pytest.fixture
def store(tmp_path):
    return LabelStore(tmp_path / "store")


@pytest.fixture
def calls():
    return []


@pytest.fixture
def service(store, tmp_path, calls):
    with LabelService(
        store, uploads_dir=tmp_path / "uploads", run_id="run-1", on_call=lambda *call: calls.append(call)
    ) as running:
        yield running


@pytest.fixture
def line(service):
    opened = Line(service.address)
    yield opened
    opened.close()


@pytest.fixture
def samples():
    """2 MB of noise without MARK, then a MARK once, in row 300 of 500."""
    rows = np.random.default_rng(0).integers(0, 170, size=(500, 4096), dtype=np.uint8)
    rows[300, 1000:1064] = 171
    return rows


@pytest.fixture
def digest(store, samples):
    return store.publish_samples(samples, chunk_bytes=65_536)


@pytest.fixture
def cache(tmp_path):
    opened = LabelCache(tmp_path / "cache", num_attempts=4, backoff_seconds=0.02)
    yield opened
    opened.close()
