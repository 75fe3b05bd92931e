"""Runs the runs: each a process of its own, several side by side, none left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fedstill.common.config import to_toml
from fedstill.common.files import write_text_atomically
from fedstill.server.compare.folder import inspect_run, run_folder
from fedstill.server.compare.plan import PlannedRun

POLL_SECONDS = 0.1
# A run that is asked to end closes its label service and its Ray cluster.
GRACE_SECONDS = 20.0
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Display(Protocol):
    """Shows how far the runs are."""

    def start(self, run: PlannedRun, *, resumed: bool) -> None:
        """A run's process was started."""

    def advance(self, run: PlannedRun, num_rounds: int) -> None:
        """A run has committed this many rounds."""

    def end(self, run: PlannedRun, run_dir: Path, reason: str | None) -> None:
        """A run is finished, or failed for a reason."""

    def close(self) -> None:
        """Gives the terminal back; may be called twice."""


@dataclass
class _Child:
    run: PlannedRun
    run_dir: Path
    log_path: Path
    home: Path
    process: subprocess.Popen[bytes]
    rounds_seen_ns: int = 0


def run_all(
    runs: Sequence[PlannedRun],
    *,
    output_dir: Path,
    jobs: int,
    grid_name: str,
    display: Display,
    on_end: Callable[[PlannedRun, str | None], None],
) -> None:
    """Runs what is not finished, in order, `jobs` at a time.

    A failed run does not stop the others.

    Args:
        runs: The runs that are not finished.
        output_dir: The comparison's folder, absolute.
        jobs: Processes side by side.
        grid_name: Grid of each run, "local" or "ray".
        display: Told of each run's progress.
        on_end: Called after each run with why it failed, or None.

    Raises:
        KeyboardInterrupt: The comparison was told to stop; all processes are gone, and
            what they had committed can be resumed.
    """
    waiting = list(runs)
    children: list[_Child] = []
    with _until_stopped() as is_stopped:
        try:
            while (waiting or children) and not is_stopped():
                while waiting and len(children) < jobs:
                    children.append(_start(waiting.pop(0), output_dir, grid_name, display))
                time.sleep(POLL_SECONDS)
                for child in [child for child in children if child.process.poll() is not None]:
                    children.remove(child)
                    reason = _close(child)
                    display.end(child.run, child.run_dir, reason)
                    on_end(child.run, reason)
                for child in children:
                    _watch_rounds(child, display)
        finally:
            _end_all(children)
        if is_stopped():
            raise KeyboardInterrupt


@contextmanager
def _until_stopped() -> Iterator[Callable[[], bool]]:
    # A flag instead of an exception: none can strike between a process's start and its entry in
    # the list, nor while the processes are being ended.
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped.is_set
        return
    previous = {number: signal.signal(number, lambda *_: stopped.set()) for number in STOPPING}
    try:
        yield stopped.is_set
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _start(run: PlannedRun, output_dir: Path, grid_name: str, display: Display) -> _Child:
    run_dir = run_folder(output_dir, run.slug)
    config_path = output_dir / "configs" / f"{run.slug}.toml"
    log_path = output_dir / "logs" / f"{run.slug}.log"
    home = output_dir / "homes" / run.slug
    resumed = inspect_run(run_dir, run.config) == "begun"
    if resumed:
        arguments = ["--resume", str(run_dir)]
    else:
        shutil.rmtree(run_dir, ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)
        write_text_atomically(config_path, to_toml(run.config))
        arguments = [str(config_path), "--run-dir", str(run_dir)]
    # -P: the folder that the command runs in may hold a `server` of its own.
    entry = [sys.executable, "-P", "-c", "from fedstill.server.cli import main; main()"]
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - this interpreter, our own command
            [*entry, "simulate", *arguments, "--grid", grid_name, "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            # What another run has fetched would not cross the wire again, so each begins with no cache.
            env=os.environ | {"FEDSTILL_HOME": str(home)},
            # A terminal's Ctrl-C reaches this process alone, which ends the runs one by one.
            start_new_session=True,
        )
    display.start(run, resumed=resumed)
    return _Child(run, run_dir, log_path, home, process)


def _watch_rounds(child: _Child, display: Display) -> None:
    path = child.run_dir / "rounds.jsonl"
    with suppress(OSError):
        changed_ns = path.stat().st_mtime_ns
        if changed_ns != child.rounds_seen_ns:
            child.rounds_seen_ns = changed_ns
            display.advance(child.run, path.read_bytes().count(b"\n"))


def _close(child: _Child) -> str | None:
    code = child.process.returncode
    if code == 0 and inspect_run(child.run_dir, child.run.config) == "finished":
        shutil.rmtree(child.home, ignore_errors=True)
        return None
    lines = child.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    said = last.removeprefix("fedstill: ")
    if code < 0:
        return f"ended by {signal.Signals(-code).name}" + (f"; {said}" if said else "")
    return said or f"ended with exit code {code} and no summary"


def _end_all(children: Sequence[_Child]) -> None:
    for child in children:
        with suppress(ProcessLookupError):
            child.process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + GRACE_SECONDS
    for child in children:
        try:
            child.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(child.process.pid, signal.SIGKILL)
            child.process.wait()
