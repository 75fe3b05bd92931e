"""`fedstill-node bench`: measures this device with a small fixed suite and writes its profile."""

from __future__ import annotations

import importlib.util
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from fedstill.common.devices import DeviceProfile, Link, Runtime, Speed
from fedstill.common.devices.suite import HostSpeed, run_suite
from fedstill.common.errors import UsageError
from fedstill.common.files import default_home
from fedstill.common.inference import describe_host

DISK_BYTES = 8 << 20
TRAINING_STEPS = 12
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True)
class Budgets:
    """What a device may spend on one artefact; None is measured, or unknown for the link."""

    latency_seconds: float = 0.1
    flash_bytes: int | None = None
    memory_bytes: int | None = None
    link: Link | None = None


@dataclass(frozen=True)
class Findings:
    """What the suite found; seconds, bytes."""

    host: HostSpeed
    memory_bytes: int
    free_disk_bytes: int
    disk_bytes_per_second: float
    step_seconds: float | None
    """One step of the fixed training; None without torch."""
    runtimes: tuple[Runtime, ...]


def measure_device(home: Path | None = None) -> Findings:
    """Runs the suite: about five seconds on a laptop's core.

    Args:
        home: Folder of the label cache, whose disk is measured; None is the user's.

    Returns:
        The findings.

    Raises:
        UsageError: The folder cannot be written.
    """
    home = home or default_home()
    free, rate = measure_disk(home)
    return Findings(
        host=run_suite(),
        memory_bytes=measure_memory(),
        free_disk_bytes=free,
        disk_bytes_per_second=rate,
        step_seconds=measure_step(),
        runtimes=find_runtimes(),
    )


def measure_memory() -> int:
    """Says how many bytes a program may use here: what is free, or the control group's limit if lower."""
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    free = os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
    for path in _LIMITS:
        try:
            text = path.read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            free = min(free, int(text))
    return int(free)


def measure_disk(folder: Path) -> tuple[int, float]:
    """Measures free bytes and the speed of a synced write of 8 MiB.

    Raises:
        UsageError: The folder cannot be written, or has no room for that.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            block = os.urandom(DISK_BYTES)
            begin = time.perf_counter()
            file.write(block)
            file.flush()
            os.fsync(file.fileno())
            return free, DISK_BYTES / (time.perf_counter() - begin)
    except OSError as error:
        raise UsageError(f"cannot measure the disk of {folder}: {error.strerror}; choose --home") from None


def measure_step() -> float | None:
    """Measures one optimiser step of a fixed student, 32 images, one thread; None without torch."""
    if importlib.util.find_spec("torch") is None:
        return None
    from fedstill.clients.bench_training import time_steps

    return statistics.median(time_steps(TRAINING_STEPS))


def find_runtimes() -> tuple[Runtime, ...]:
    """Lists the runtimes that are installed here."""
    executorch: tuple[Runtime, ...] = ("executorch",) if importlib.util.find_spec("executorch") else ()
    return ("onnxruntime", *executorch, "packed")


def make_profile(name: str, findings: Findings, budgets: Budgets) -> DeviceProfile:
    """Makes a profile of what was found.

    Args:
        name: Name of the device.
        findings: What the suite found.
        budgets: What the device may spend; what is None goes by the findings.

    Returns:
        The profile.

    Raises:
        UsageError: A name or a number that no profile can have.
    """
    host = findings.host
    try:
        return DeviceProfile(
            name=name,
            description=describe_host(),
            flash_bytes=budgets.flash_bytes or findings.free_disk_bytes,
            memory_bytes=budgets.memory_bytes or findings.memory_bytes,
            latency_budget_seconds=budgets.latency_seconds,
            runtimes=findings.runtimes,
            arithmetic=("fp32", "int8", "int4", "binary"),
            speed=Speed(
                fp32_macs_per_second=round(host.fp32_macs_per_second),
                int8_macs_per_second=round(host.int8_macs_per_second),
                step_seconds=findings.step_seconds,
                source=f"measured by fedstill-node bench, one thread of ONNX Runtime, on {describe_host()}",
            ),
            link=budgets.link,
            measured={
                key: value for key, value in asdict(host).items() if key.endswith(("batch1", "batch64"))
            }
            | {
                "free_disk_bytes": findings.free_disk_bytes,
                "disk_bytes_per_second": round(findings.disk_bytes_per_second),
            },
        )
    except ValueError as error:
        raise UsageError(f"no profile can be made: {str(error).splitlines()[2].strip()}") from None
