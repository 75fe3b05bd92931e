"""A bad link between a node and a service: TCP, forwarded by asyncio in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from dataclasses import dataclass

PIECE_BYTES = 16_384


@dataclass
class Weather:
    """What happens to bytes on the link; change it at any time.

    Attributes:
        cut_after: Bytes after which each of the next `num_cuts` connections ends.
        resets: It ends by a reset (RST) instead of an orderly close.
        bytes_per_second: Pace in either direction; 0 is as fast as it goes.
        swallows: Everything is taken and nothing is passed on, the connection stays open.
        num_flips: Bytes still to be altered, each the last one of a full piece.
    """

    cut_after: int = 0
    num_cuts: int = 0
    resets: bool = False
    bytes_per_second: float = 0.0
    swallows: bool = False
    num_flips: int = 0


class Proxy:
    """Forwards connections to a port of this machine; a context manager."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.weather = Weather()
        self.num_bytes = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self._stopping = asyncio.Event()
        self._connections: set[asyncio.Future[None]] = set()

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(timeout=10)
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connect, sock=self._listener)
        await self._stopping.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: asyncio would report the cancelling of one that it made itself.
        self._connections.add(asyncio.ensure_future(self._join(reader, writer)))

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        ways = [
            asyncio.ensure_future(self._forward(reader, far_writer)),
            asyncio.ensure_future(self._forward(far_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            for end in (writer, far_writer):
                if self.weather.resets:
                    lingering = struct.pack("ii", 1, 0)
                    with contextlib.suppress(OSError):
                        end.get_extra_info("socket").setsockopt(
                            socket.SOL_SOCKET, socket.SO_LINGER, lingering
                        )
                end.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen, weather = 0, self.weather
        with contextlib.suppress(ConnectionError):
            while content := await reader.read(PIECE_BYTES):
                seen += len(content)
                if weather.num_cuts and seen > weather.cut_after:
                    weather.num_cuts -= 1
                    return
                if weather.swallows:
                    continue
                if weather.num_flips and len(content) == PIECE_BYTES:
                    weather.num_flips -= 1
                    content = content[:-1] + bytes([content[-1] ^ 1])
                if weather.bytes_per_second:
                    await asyncio.sleep(len(content) / weather.bytes_per_second)
                self.num_bytes += len(content)
                writer.write(content)
                await writer.drain()
