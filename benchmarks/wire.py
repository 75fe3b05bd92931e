"""How fast labels travel, against a bare TCP socket: `python -m benchmarks.wire`.

One client, plaintext, loopback, chunks of 1 MiB, the server in a process of its own.
Three ways to receive the same bytes take turns in every repeat:

- socket: `sendall` of each chunk message from the store's memory map, `recv_into` a buffer;
- stream: the label service's gRPC stream, received and counted, not verified;
- cache: `LabelCache.fetch_array`, which verifies (CRC-32C, SHA-256), decodes and writes to disk.

Figures are medians over the repeats of the ratio to the socket in the same repeat.
Expected before it was measured: stream .60, because sending chunks that were serialised
once leaves little but HTTP/2 framing; cache .2, because SHA-256 alone runs at 1.7 GB/s.
The goal is stream ≥ .5. On two idle cores medians of 7 turns lay between .46 and .67 (cache .17
to .24): the ratio is low where the socket is fast (.46 at 4.4 GB/s, .55 at 2.5), for gRPC's own
cost per byte stays. It wants more threads than the socket, so measure on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from fedstill.clients.labels import LabelCache
from fedstill.clients.labels.channels import SERVICE
from fedstill.clients.labels.transport import OPTIONS
from fedstill.protos.fedstill.v1 import labels_pb2
from fedstill.server.labels import LabelService, LabelStore

_MEBIBYTE = 1_048_576
_RATIOS = ("stream", "cache")


def _serve_socket(root: Path, digest: bytes, connection: Connection) -> None:
    array = LabelStore(root).array(digest)
    with socket.create_server(("127.0.0.1", 0)) as server:
        connection.send(f"127.0.0.1:{server.getsockname()[1]}")
        while True:
            peer, _ = server.accept()
            with peer:
                for index in range(array.num_chunks):
                    peer.sendall(array.message(index))


def _serve_labels(root: Path, _digest: bytes, connection: Connection) -> None:
    with LabelService(LabelStore(root), uploads_dir=root / "uploads") as service:
        connection.send(service.address)
        service.wait()


@contextmanager
def _served(serve: Callable[[Path, bytes, Connection], None], root: Path, digest: bytes) -> Iterator[str]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(root, digest, there), daemon=True)
    process.start()
    try:
        yield here.recv()
    finally:
        process.terminate()
        process.join()


def _receive_socket(address: str) -> int:
    host, _, port = address.rpartition(":")
    buffer = bytearray(_MEBIBYTE)
    num_bytes = 0
    with socket.create_connection((host, int(port))) as peer:
        while received := peer.recv_into(buffer):
            num_bytes += received
    return num_bytes


def _receive_stream(channel: grpc.Channel, digest: bytes) -> int:
    call: grpc.UnaryStreamMultiCallable[Any, bytes] = channel.unary_stream(
        f"{SERVICE}/StreamChunks", request_serializer=labels_pb2.StreamChunksRequest.SerializeToString
    )
    return sum(len(message) for message in call(labels_pb2.StreamChunksRequest(digest=digest)))


def _receive_cache(address: str, digest: bytes) -> int:
    with tempfile.TemporaryDirectory() as folder:
        cache = LabelCache(Path(folder))
        fetched = cache.fetch_array(address, digest)
        cache.close()
        return fetched.chunk_bytes


def _rate(receive: Callable[[], int], expected_bytes: int) -> float:
    started = time.perf_counter()
    received = receive()
    seconds = time.perf_counter() - started
    if received != expected_bytes:
        raise RuntimeError(f"expected {expected_bytes} bytes, received {received}")
    return received / seconds


def measure(*, num_mebibytes: int, num_repeats: int, chunk_bytes: int = _MEBIBYTE) -> dict[str, object]:
    """Measures all three ways in turns.

    Args:
        num_mebibytes: Size of the array.
        num_repeats: Turns; one more comes first and is not counted.
        chunk_bytes: Size of a chunk's payload.

    Returns:
        Medians: `rates_bytes_per_second` of each way, `ratios` to the socket.
    """
    with tempfile.TemporaryDirectory() as folder:
        store = LabelStore(Path(folder))
        rows = np.random.default_rng(0).integers(0, 256, size=(num_mebibytes * 16, 65_536), dtype=np.uint8)
        digest = store.publish_samples(rows, chunk_bytes=chunk_bytes)
        array = store.array(digest)
        expected = array.num_bytes - len(array.manifest)
        with (
            _served(_serve_socket, store.root, digest) as socket_address,
            _served(_serve_labels, store.root, digest) as labels_address,
            grpc.insecure_channel(labels_address, options=OPTIONS) as channel,
        ):
            ways: dict[str, Callable[[], int]] = {
                "socket": lambda: _receive_socket(socket_address),
                "stream": lambda: _receive_stream(channel, digest),
                "cache": lambda: _receive_cache(labels_address, digest),
            }
            turns = [
                {name: _rate(way, expected) for name, way in ways.items()} for _ in range(num_repeats + 1)
            ][1:]
    return {
        "chunk_bytes": chunk_bytes,
        "array_bytes": expected,
        "num_repeats": num_repeats,
        "rates_bytes_per_second": {name: statistics.median(turn[name] for turn in turns) for name in ways},
        "ratios": {
            name: statistics.median(turn[name] / turn["socket"] for turn in turns) for name in _RATIOS
        },
    }


def main() -> int:
    """Prints a table, or JSON."""
    parser = argparse.ArgumentParser(description="label service against a raw TCP socket")
    parser.add_argument("--mebibytes", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--chunk-bytes", type=int, default=_MEBIBYTE)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = measure(
        num_mebibytes=options.mebibytes, num_repeats=options.repeats, chunk_bytes=options.chunk_bytes
    )
    if options.json:
        print(json.dumps(figures))
        return 0
    rates, ratios = figures["rates_bytes_per_second"], figures["ratios"]
    assert isinstance(rates, dict)
    assert isinstance(ratios, dict)
    print(
        f"{options.mebibytes} MiB, chunks of {options.chunk_bytes} bytes, medians of {options.repeats} turns"
    )
    print(f"{'way':<8}{'MB/s':>8}{'ratio':>8}")
    for name, rate in rates.items():
        print(f"{name:<8}{rate / 1e6:>8.0f}{ratios.get(name, 1.0):>8.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
