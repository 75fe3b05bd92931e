"""A small web server beside what the process does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from fedstill.common.errors import RunError

START_SECONDS = 60.0
END_SECONDS = 5.0


@contextmanager
def served_beside(settings: uvicorn.Config) -> Iterator[int]:
    """Serves on a thread of its own for as long as the block lasts; signals stay with the main thread.

    Args:
        settings: What is served and where; port 0 takes a free one.

    Yields:
        The port.

    Raises:
        RunError: It did not start.
    """
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + START_SECONDS
    try:
        while not server.started:
            if not thread.is_alive() or time.monotonic() > end:
                raise RunError(f"cannot serve on {settings.host}:{settings.port}")
            time.sleep(0.02)
        yield int(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(END_SECONDS)
