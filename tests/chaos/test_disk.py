"""Disks that fill up: one clear line, nothing torn, and the run goes on when there is space."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedstill.clients.labels import LabelCache
from fedstill.clients.node_store import NodeStore
from fedstill.common.errors import ExchangeError
from fedstill.server.labels import LabelService, LabelStore

QUICK = (
    "federation.scheme=local",  # nodes send nothing, so it is the coordinator that meets the full disk
    "federation.num_nodes=3",
    "federation.num_rounds=5",
    "federation.control_fraction=0.0",
    "distill.num_epochs=1",
    "data.num_public=100",
    "monitoring.enabled=false",
)


@contextmanager
def mounted(folder: Path, *, kilobytes: int) -> Iterator[Path]:
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if mount is None or os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small disk needs the right to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", kilobytes=4096) as folder:
        yield folder


def fill(disk: Path, *, but_bytes: int) -> Path:
    """Takes all space of a disk but some, also from those who are writing there."""
    filler = disk / ".filler"
    with filler.open("wb", buffering=0) as file:
        with suppress(OSError):
            while True:
                file.write(bytes(65_536))
        file.truncate(max(0, file.tell() - but_bytes))
    return filler


# Blocks are 4 KiB: room for nothing, or for a file or two.
@pytest.mark.parametrize("but_bytes", [0, 16_384])
def test_a_coordinator_whose_disk_fills_up_says_so_and_resumes(
    but_bytes: int,
    warm: Any,
    small_disk: Path,
    tmp_path: Path,
    committed: Callable[[Path], int],
    patiently: Callable[..., None],
    ending: Callable[[Path], dict[str, Any]],
    whole: Callable[[Path], None],
) -> None:
    settings = [part for item in QUICK for part in ("--set", item)]
    begin = ["simulate", "--grid", "local", *settings, "--run-dir"]
    run_dir = small_disk / "run"
    life = warm.start(*begin, str(run_dir))
    patiently(lambda: committed(run_dir) >= 1, within_seconds=60, what="first round")
    filler = fill(small_disk, but_bytes=but_bytes)
    assert life.end() == 1
    whole(run_dir)
    assert life.complaint() == (
        f"fedstill: no space left for {run_dir}: free some, then go on with --resume {run_dir}"
    )
    filler.unlink()
    assert warm.start("simulate", "--grid", "local", "--resume", str(run_dir)).end() == 0
    assert warm.start(*begin, str(tmp_path / "whole")).end() == 0
    assert ending(run_dir) == ending(tmp_path / "whole")


def test_a_disk_without_room_for_the_first_state_leaves_no_run(warm: Any, small_disk: Path) -> None:
    fill(small_disk, but_bytes=0)
    arguments = [part for item in QUICK for part in ("--set", item)]
    run_dir = small_disk / "run"
    life = warm.start("simulate", "--grid", "local", *arguments, "--run-dir", str(run_dir))
    assert life.end() == 1
    assert "begin again" in life.complaint()
    assert not run_dir.exists()


def test_a_node_whose_disk_is_full_keeps_the_student_that_it_has(small_disk: Path) -> None:
    store = NodeStore(small_disk, run_id="run", node_id="node-0000")
    with store.write_round(1, base_round=0) as folder:
        (folder / "student.safetensors").write_bytes(b"1" * 4096)
    filler = fill(small_disk, but_bytes=32_768)
    with pytest.raises(OSError, match="No space left"), store.write_round(2, base_round=1) as folder:
        (folder / "student.safetensors").write_bytes(b"2" * 1_000_000)
    assert store.student_path(1).read_bytes() == b"1" * 4096
    assert [path.name for path in store.folder.iterdir()] == ["round-00001"]
    filler.unlink()
    with store.write_round(2, base_round=1) as folder:
        (folder / "student.safetensors").write_bytes(b"2" * 1_000_000)
    assert store.student_path(2).stat().st_size == 1_000_000


def test_nodes_whose_disk_fills_up_are_dropped_by_name_and_the_run_resumes(
    warm: Any,
    small_disk: Path,
    tmp_path: Path,
    committed: Callable[[Path], int],
    patiently: Callable[..., None],
    ending: Callable[[Path], dict[str, Any]],
    whole: Callable[[Path], None],
) -> None:
    settings = [part for item in QUICK for part in ("--set", item)]
    begin = ["simulate", "--grid", "local", *settings, "--run-dir"]
    run_dir = tmp_path / "run"
    life = warm.start(*begin, str(run_dir), "--set", f"exchange.cache_dir={small_disk}")
    patiently(lambda: committed(run_dir) >= 1, within_seconds=60, what="first round")
    filler = fill(small_disk, but_bytes=0)
    assert life.end() == 1
    whole(run_dir)
    assert "of 3 nodes gave an answer that can be used" in life.complaint()
    assert "No space left" in life.complaint()
    filler.unlink()
    assert warm.start("simulate", "--grid", "local", "--resume", str(run_dir)).end() == 0
    assert warm.start(*begin, str(tmp_path / "whole")).end() == 0
    assert ending(run_dir) == ending(tmp_path / "whole")


def test_a_cache_whose_disk_is_full_says_so_and_fetches_when_there_is_space(
    small_disk: Path, tmp_path: Path
) -> None:
    store = LabelStore(tmp_path / "store")
    rows = np.random.default_rng(0).integers(0, 256, size=(256, 4096), dtype=np.uint8)
    digest = store.publish_samples(rows, chunk_bytes=65_536)
    filler = fill(small_disk, but_bytes=500_000)
    cache = LabelCache(small_disk, num_attempts=2, backoff_seconds=0.02)
    with LabelService(store, uploads_dir=tmp_path / "nodes") as service:
        with pytest.raises(ExchangeError, match=r"space.*exchange\.cache_dir"):
            cache.fetch_array(service.address, digest)
        filler.unlink()
        np.testing.assert_array_equal(cache.fetch_array(service.address, digest).array, rows)
    cache.close()
