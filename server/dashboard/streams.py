"""Server-sent events: one follower per run, however many pages watch it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool

from fedstill.server.dashboard.discovery import Brief, find_runs
from fedstill.server.dashboard.run_view import RunView
from fedstill.server.run.state import read_holders

TICK_SECONDS = 1.0
# Proxies and browsers give up on a stream that is silent for long.
HEARTBEAT_SECONDS = 15.0
# Views of runs that nobody watches are kept, so that pages open at once.
MAX_IDLE_VIEWS = 8


class Channel:
    """What one source says over time, to any number of listeners.

    Args:
        snapshot: Gives the whole state; called in a thread.
        refresh: Reads what is new and gives what changed; called in a thread, never while
            the other is.
        tick_seconds: Time between two looks.
    """

    def __init__(
        self,
        snapshot: Callable[[], dict[str, Any]],
        refresh: Callable[[], dict[str, Any]],
        *,
        tick_seconds: float,
    ) -> None:
        self._snapshot = snapshot
        self._refresh = refresh
        self._tick_seconds = tick_seconds
        self._lock = asyncio.Lock()
        self._listeners: set[asyncio.Queue[bytes]] = set()
        self._task: asyncio.Task[None] | None = None
        self._last = b""

    @property
    def is_idle(self) -> bool:
        """Whether nobody listens."""
        return not self._listeners

    async def read(self) -> dict[str, Any]:
        """Reads the whole state as it is now."""
        async with self._lock:
            return await self._read()

    async def _read(self) -> dict[str, Any]:
        self._broadcast(await run_in_threadpool(self._refresh))
        return await run_in_threadpool(self._snapshot)

    async def call(self, function: Callable[[], Any]) -> Any:
        """Calls a function of the source while nothing else does."""
        async with self._lock:
            return await run_in_threadpool(function)

    async def listen(self) -> AsyncIterator[bytes]:
        """Yields server-sent events: `snapshot` first, then `change` whenever something is new."""
        queue: asyncio.Queue[bytes] = asyncio.Queue(maxsize=64)
        async with self._lock:
            snapshot = format_event("snapshot", await self._read())
            self._listeners.add(queue)
        try:
            yield snapshot
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._follow())
            while queue in self._listeners:
                try:
                    yield await asyncio.wait_for(queue.get(), HEARTBEAT_SECONDS)
                except TimeoutError:
                    yield b": still here\n\n"
        finally:
            self._listeners.discard(queue)

    async def _follow(self) -> None:
        while self._listeners:
            await asyncio.sleep(self._tick_seconds)
            async with self._lock:
                self._broadcast(await run_in_threadpool(self._refresh))

    def _broadcast(self, changes: dict[str, Any]) -> None:
        anew = changes.pop("anew", False)
        message = format_event("change", changes)
        if anew:
            self._listeners.clear()  # their pages connect again and begin anew
            return
        if message == self._last:
            return
        self._last = message
        for queue in list(self._listeners):
            try:
                queue.put_nowait(message)
            except asyncio.QueueFull:
                self._listeners.discard(queue)  # too slow: it connects again and begins anew

    async def close(self) -> None:
        """Ends every stream."""
        self._listeners.clear()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task


class Desk:
    """All channels of a dashboard.

    Args:
        root: The folder of runs.
        tick_seconds: Time between two looks.
    """

    def __init__(self, root: Path, *, tick_seconds: float = TICK_SECONDS) -> None:
        self._root = root
        self._tick_seconds = tick_seconds
        self._briefs: dict[str, Brief] = {}
        self._views: dict[str, tuple[RunView, Channel]] = {}
        self._list: dict[str, Any] = {}
        self.runs = Channel(lambda: self._list, self._refresh_list, tick_seconds=2 * tick_seconds)

    def _refresh_list(self) -> dict[str, Any]:
        found = find_runs(self._root)
        holders = read_holders()
        for name in self._briefs.keys() - found.keys():
            del self._briefs[name]
        runs = []
        for name, folder in found.items():
            if name not in self._briefs:
                self._briefs[name] = Brief(folder)
            runs.append({"name": name} | self._briefs[name].refresh(holders))
        self._list = {"folder": self._root.resolve().name, "runs": runs}
        return dict(self._list)

    async def find(self, name: str) -> tuple[RunView, Channel] | None:
        """Finds a run by its name; only names that a look into the folder gives are known."""
        if name in self._views:
            return self._views[name]
        found = await run_in_threadpool(find_runs, self._root)
        if name not in found:
            return None
        if name not in self._views:
            self._forget_idle()
            view = await run_in_threadpool(RunView, name, found[name])
            self._views[name] = (view, Channel(view.snapshot, view.refresh, tick_seconds=self._tick_seconds))
        return self._views[name]

    def _forget_idle(self) -> None:
        idle = [name for name, (_, channel) in self._views.items() if channel.is_idle]
        for name in idle[: max(0, len(idle) - MAX_IDLE_VIEWS + 1)]:
            del self._views[name]

    async def close(self) -> None:
        """Ends every stream."""
        for channel in [self.runs, *(channel for _, channel in self._views.values())]:
            await channel.close()


def format_event(name: str, document: dict[str, Any]) -> bytes:
    """Writes one server-sent event."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    return f"event: {name}\ndata: {text}\n\n".encode()
