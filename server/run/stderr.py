"""Keeps what native libraries write to standard error where Flower throws it away.

gRPC alone knows why a TLS handshake failed, and says so on file descriptor 2 only; the
SuperExec starts a ServerApp with that on /dev/null.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STDERR_FILE = "stderr.log"
_STDERR = 2


@contextmanager
def keep_stderr(run_dir: Path) -> Iterator[None]:
    """Lets standard error go to `stderr.log` of a run folder, if it goes to /dev/null.

    Args:
        run_dir: The run folder.
    """
    here, nowhere = os.fstat(_STDERR), os.stat(os.devnull)  # noqa: PTH116 of a descriptor
    if here.st_rdev != nowhere.st_rdev:
        yield
        return
    before = os.dup(_STDERR)
    with (run_dir / STDERR_FILE).open("ab") as file:
        os.dup2(file.fileno(), _STDERR)
    try:
        yield
    finally:
        os.dup2(before, _STDERR)
        os.close(before)
