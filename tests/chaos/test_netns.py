"""The same bad links with the kernel's own means: a node in a network namespace, behind a veth pair."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from fedstill.server.labels import LabelService, LabelStore

ROOT = Path(__file__).resolve().parents[2]
FETCH = (
    "import sys; from pathlib import Path; from fedstill.clients.labels import LabelCache\n"
    "from fedstill.clients.labels.transport import Transport\n"
    "plain = Transport(allow_insecure=True)\n"
    "cache = LabelCache(Path(sys.argv[1]), num_attempts=int(sys.argv[4]), transport=plain)\n"
    "fetched = cache.fetch_array(sys.argv[2], bytes.fromhex(sys.argv[3]), timeout_seconds=2)\n"
    "print(fetched.wire_bytes)"
)


@dataclass(frozen=True)
class Namespace:
    """A node's own network; the coordinator's end of the only link has `address`."""

    name: str
    address: str
    ours: str

    def start_fetch(
        self, cache: Path, address: str, digest: bytes, *, num_attempts: int
    ) -> subprocess.Popen[str]:
        command = ["ip", "netns", "exec", self.name, sys.executable, "-c", FETCH]
        return subprocess.Popen(
            [*command, str(cache), address, digest.hex(), str(num_attempts)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """Skips where there is no right to make one, or no program for it."""
    mark = f"fs{os.getpid() % 10_000}"
    subnet = f"10.211.{os.getpid() % 250}"
    if os.geteuid() or not all(shutil.which(program) for program in ("ip", "tc", "iptables")):
        pytest.skip("network namespaces need root, ip, tc and iptables")
    if subprocess.run(["ip", "netns", "add", mark], capture_output=True, check=False).returncode:
        pytest.skip("this machine makes no network namespaces")
    try:
        call("ip", "link", "add", f"{mark}a", "type", "veth", "peer", "name", f"{mark}b", "netns", mark)
        call("ip", "address", "add", f"{subnet}.1/24", "dev", f"{mark}a")
        call("ip", "link", "set", f"{mark}a", "up")
        call("ip", "netns", "exec", mark, "ip", "address", "add", f"{subnet}.2/24", "dev", f"{mark}b")
        call("ip", "netns", "exec", mark, "ip", "link", "set", f"{mark}b", "up")
        yield Namespace(mark, f"{subnet}.1", f"{mark}a")
    finally:
        subprocess.run(["ip", "netns", "del", mark], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", f"{mark}a"], capture_output=True, check=False)


@pytest.fixture
def published(namespace: Namespace, tmp_path: Path) -> Iterator[tuple[str, bytes, np.ndarray]]:
    """Address of a service on the link, and 768 KB of noise on it."""
    rows = np.random.default_rng(0).integers(0, 256, size=(192, 4096), dtype=np.uint8)
    store = LabelStore(tmp_path / "store")
    digest = store.publish_samples(rows, chunk_bytes=65_536)
    uploads_dir = tmp_path / "nodes"
    # Plaintext: the namespace's other end is this test.
    with LabelService(store, host=namespace.address, uploads_dir=uploads_dir, allow_insecure=True) as service:
        yield service.address, digest, rows


def test_1_mbit_per_second_is_slow_and_nothing_else(
    namespace: Namespace, published: tuple[str, bytes, np.ndarray], tmp_path: Path
) -> None:
    address, digest, rows = published
    shaping = ["tc", "qdisc", "add", "dev", namespace.ours, "root", "tbf"]
    call(*shaping, "rate", "1mbit", "burst", "16kb", "latency", "400ms")
    begin = time.monotonic()
    node = namespace.start_fetch(tmp_path / "cache", address, digest, num_attempts=3)
    output, errors = node.communicate(timeout=60)
    assert node.returncode == 0, errors
    assert time.monotonic() - begin > 0.9 * rows.nbytes / 125_000
    assert int(output) < rows.nbytes + 65_536  # nothing was sent twice
    np.testing.assert_array_equal(np.load(tmp_path / "cache" / digest.hex() / "rows.npy"), rows)


def test_a_blackhole_in_mid_stream_is_resumed_when_it_is_over(
    namespace: Namespace,
    published: tuple[str, bytes, np.ndarray],
    tmp_path: Path,
    patiently: Callable[..., None],
) -> None:
    address, digest, rows = published
    call("tc", "qdisc", "add", "dev", namespace.ours, "root", "tbf", "rate", "2mbit", "burst", "16kb",
         "latency", "400ms")  # fmt: skip
    part = tmp_path / "cache" / digest.hex() / "rows.part"
    node = namespace.start_fetch(tmp_path / "cache", address, digest, num_attempts=20)
    inside = ["ip", "netns", "exec", namespace.name, "iptables"]
    try:
        patiently(lambda: part.exists() and part.stat().st_size > 150_000, within_seconds=60, what="part")
        call(*inside, "-A", "INPUT", "-s", namespace.address, "-j", "DROP")
        held = part.stat().st_size
        time.sleep(3)  # past the fetch's timeout
        assert node.poll() is None
        call(*inside, "-F", "INPUT")
        output, errors = node.communicate(timeout=60)
    finally:
        node.kill()
        node.wait()
    assert node.returncode == 0, errors
    assert int(output) < rows.nbytes + 6 * 65_536
    assert 0 < held < rows.nbytes
    np.testing.assert_array_equal(np.load(part.with_name("rows.npy")), rows)


def test_a_link_that_stays_down_is_named_in_time(
    namespace: Namespace, published: tuple[str, bytes, np.ndarray], tmp_path: Path
) -> None:
    address, digest, _ = published
    call("ip", "link", "set", namespace.ours, "down")
    node = namespace.start_fetch(tmp_path / "cache", address, digest, num_attempts=2)
    _, errors = node.communicate(timeout=60)
    assert node.returncode == 1
    assert "ExchangeError" in errors
    assert address in errors
    assert not (tmp_path / "cache" / digest.hex() / "rows.npy").exists()
