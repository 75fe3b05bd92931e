"""Links under mutual TLS that break, creep or lie: what is moved arrives, or a named error comes in time."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedstill.clients.labels import LabelCache, Transport, upload_array
from fedstill.common.errors import ExchangeError
from fedstill.server.labels import LabelService, LabelStore
from fedstill.server.labels.access import open_round
from fedstill.server.labels.array_uploads import UploadStore
from fedstill.server.pki.authority import init_authority, issue_node
from fedstill.server.pki.enrolment import write_bundle
from tests.chaos.proxy import Proxy

ROOT = Path(__file__).resolve().parents[2]
Move = Callable[[str], None]
NODE = "node-0000"


@pytest.fixture
def rows() -> np.ndarray:
    """768 KB of noise: six seconds at 1 Mbit/s."""
    return np.random.default_rng(0).integers(0, 256, size=(192, 4096), dtype=np.uint8)


@pytest.fixture
def is_secure() -> bool:
    return True


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    init_authority(tmp_path / "authority")
    return tmp_path / "authority"


@pytest.fixture
def bundle(authority: Path, tmp_path: Path) -> Path:
    write_bundle(tmp_path / NODE, NODE, issue_node(authority, NODE).files)
    return tmp_path / NODE


@pytest.fixture
def link(authority: Path, is_secure: bool, tmp_path: Path) -> Iterator[Any]:
    service = LabelService(
        LabelStore(tmp_path / "store"),
        uploads_dir=tmp_path / "nodes",
        run_id="run",
        certificates_dir=authority if is_secure else None,
    )
    with (
        service,
        Proxy(int(service.address.rpartition(":")[2])) as proxy,
    ):
        yield proxy


@pytest.fixture(params=["fetch", "upload"])
def move(
    request: pytest.FixtureRequest, rows: np.ndarray, bundle: Path, is_secure: bool, tmp_path: Path
) -> Move:
    """Moves the rows over an address, down or up, and checks what arrived."""
    store = LabelStore(tmp_path / "store")
    digest = store.publish_samples(rows, chunk_bytes=65_536)
    transport = Transport(bundle if is_secure else None)

    def fetch(address: str) -> None:
        cache = LabelCache(tmp_path / "cache", num_attempts=4, backoff_seconds=0.02, transport=transport)
        try:
            array = cache.fetch_array(address, digest, timeout_seconds=2).array
        finally:
            cache.close()
        np.testing.assert_array_equal(array, rows)

    def upload(address: str) -> None:
        sent = upload_array(
            address,
            rows,
            run_id="run",
            round_number=1,
            node_id=NODE,
            transport=transport,
            chunk_bytes=65_536,
            timeout_seconds=2,
            num_attempts=4,
            backoff_seconds=0.02,
        )
        arrived = UploadStore(tmp_path / "uploads").read(1, NODE, sent.digest)
        np.testing.assert_array_equal(arrived.array, rows)

    return fetch if request.param == "fetch" else upload


@pytest.mark.parametrize("resets", [False, True], ids=["cut", "reset"])
def test_a_link_that_breaks_three_times_costs_no_more_than_what_was_under_way(
    resets: bool, link: Any, move: Move, rows: np.ndarray
) -> None:
    link.weather.cut_after, link.weather.num_cuts, link.weather.resets = 250_000, 3, resets
    move(link.address)
    assert link.weather.num_cuts < 3
    assert link.num_bytes < rows.nbytes + 3 * 250_000 + 65_536


def test_a_link_of_1_mbit_per_second_is_slow_and_nothing_else(link: Any, move: Move) -> None:
    link.weather.bytes_per_second = 125_000
    move(link.address)


# TLS finds them too: without it our own checksums have to.
@pytest.mark.parametrize("is_secure", [True, False], ids=["tls", "plaintext"])
def test_altered_bytes_never_arrive(link: Any, move: Move) -> None:
    link.weather.num_flips = 1
    move(link.address)
    assert link.weather.num_flips == 0


def test_a_blackhole_is_named_within_its_timeouts(link: Any, move: Move) -> None:
    link.weather.swallows = True
    begin = time.monotonic()
    with pytest.raises(ExchangeError, match=re.escape(link.address)):
        move(link.address)
    assert time.monotonic() - begin < 4 * (2 + 1) + 2


def test_a_link_that_is_back_after_a_blackhole_is_gone_on_with(link: Any, move: Move) -> None:
    link.weather.swallows = True
    with pytest.raises(ExchangeError):
        move(link.address)
    link.weather.swallows = False
    move(link.address)


@contextmanager
def serving(store: Path, authority: Path, *, port: int) -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [
        sys.executable,
        "-c",
        "from fedstill.server.cli import main; main()",
        "labels",
        "serve",
        str(store),
    ]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--certificates", str(authority)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout
        yield process, int(process.stdout.readline().rpartition(":")[2])
    finally:
        process.kill()
        process.communicate()


FETCH = (
    "import sys; from pathlib import Path; from fedstill.clients.labels import LabelCache, Transport\n"
    "cache = LabelCache(Path(sys.argv[3]), num_attempts=40, transport=Transport(Path(sys.argv[2])))\n"
    "cache.fetch_array(sys.argv[1], bytes.fromhex(sys.argv[4]), timeout_seconds=20)"
)
UPLOAD = (
    "import sys; from pathlib import Path; import numpy as np\n"
    "from fedstill.clients.labels import Transport, upload_array\n"
    "rows, nonce = np.load(sys.argv[3]), bytes.fromhex(sys.argv[4])\n"
    "sending = {'run_id': 'run', 'round_number': 1, 'node_id': sys.argv[5], 'chunk_bytes': 65_536}\n"
    "transport = Transport(Path(sys.argv[2]))\n"
    "sent = upload_array(sys.argv[1], rows, nonce=nonce, transport=transport, num_attempts=40, **sending)\n"
    "print(sent.digest.hex())"
)


@pytest.mark.parametrize("way", ["fetch", "upload"])
def test_a_label_service_killed_in_mid_stream_is_resumed_when_it_is_back(
    way: str,
    rows: np.ndarray,
    authority: Path,
    bundle: Path,
    tmp_path: Path,
    patiently: Callable[..., None],
) -> None:
    digest = LabelStore(tmp_path / "store").publish_samples(rows, chunk_bytes=65_536)
    nonce = open_round(tmp_path, "run", 1, [NODE])
    np.save(tmp_path / "rows.npy", rows)
    with serving(tmp_path / "store", authority, port=0) as (process, port), Proxy(port) as link:
        link.weather.bytes_per_second = 300_000
        arguments = {
            "fetch": [FETCH, link.address, bundle, tmp_path / "cache", digest.hex()],
            "upload": [UPLOAD, link.address, bundle, tmp_path / "rows.npy", nonce.hex(), NODE],
        }[way]
        node = subprocess.Popen(
            [sys.executable, "-c", *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        try:

            def is_half_there() -> bool:
                assert node.poll() is None
                return link.num_bytes > 300_000

            patiently(is_half_there, within_seconds=60, what="half")
            process.kill()
            process.wait()
            link.weather.bytes_per_second = 0
            with serving(tmp_path / "store", authority, port=port):
                output, _ = node.communicate(timeout=60)
        finally:
            node.kill()
            node.wait()
    assert node.returncode == 0
    assert rows.nbytes < link.num_bytes < rows.nbytes + 3 * 65_536
    if way == "fetch":
        arrived = np.load(tmp_path / "cache" / digest.hex() / "rows.npy")
    else:
        arrived = UploadStore(tmp_path / "uploads").read(1, NODE, bytes.fromhex(output)).array
    np.testing.assert_array_equal(arrived, rows)
