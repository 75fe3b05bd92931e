"""`fedstill doctor`: whether this machine can run a federation, one line per finding with its remedy."""

from __future__ import annotations

import errno
import importlib
import importlib.util
import os
import platform
import re
import shutil
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from rich.console import Console
from rich.text import Text

from fedstill.common.config import Config
from fedstill.common.datasets import load_dataset
from fedstill.common.errors import DataError, UsageError
from fedstill.common.files import default_home
from fedstill.common.installation import DISTRIBUTIONS, Requirements, install_command, read_requirements
from fedstill.server.display.units import format_bytes

REQUIRED_EXTRAS = ("", "node", "server")
OPTIONAL_EXTRAS = ("datasets",)
# A process with torch, ONNX export and a small student warm holds 430 MB of its own; the coordinator
# has a teacher, Ray's own processes and its labels beside that.
ACTOR_BYTES = 500_000_000
COORDINATOR_BYTES = 1_000_000_000
# Ray moves its object store to the disk below this; Docker gives 64 MB unless told otherwise.
MIN_SHM_BYTES = 500_000_000
MIN_DISK_BYTES = 1_000_000_000
TOO_LITTLE_DISK_BYTES = 100_000_000
# When the alert CertificateExpiring fires.
FEW_DAYS = 14


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    ok: bool | None
    """None is a warning: it runs, but less well than it could."""
    detail: str
    remedy: str = ""


def run_doctor(config: Config | None) -> list[Finding]:
    """Looks at everything that a run needs; starts and changes nothing.

    Args:
        config: The configuration that shall run; None is the default one.

    Returns:
        The findings, in the order in which a person would mend them.
    """
    config = Config() if config is None else config
    checks: list[Callable[[Config], Iterator[Finding]]] = [
        _check_libraries,
        _check_generated_code,
        _check_ray,
        _check_cores,
        _check_memory,
        _check_disk,
        _check_cache,
        _check_ports,
        _check_transport,
        _check_data,
        _check_teacher,
    ]
    return [finding for check in checks for finding in check(config)]


def print_findings(findings: list[Finding], console: Console | None = None) -> None:
    """Prints one line per finding: ok, warn or FAIL, what was found, what to do.

    Args:
        findings: What `run_doctor` returned.
        console: Where to print; None is standard output.
    """
    console = console or Console(highlight=False)
    signs = {True: ("ok  ", "green"), None: ("warn", "yellow"), False: ("FAIL", "bold red")}
    width = max((len(finding.name) for finding in findings), default=0)
    for finding in findings:
        sign, style = signs[finding.ok]
        remedy = f"; {finding.remedy}" if finding.remedy and finding.ok is not True else ""
        line = " ".join(f"{finding.detail}{remedy}".split())
        console.print(Text.assemble((sign, style), f"  {finding.name:{width}}  {line}"), soft_wrap=True)


def _check_libraries(_: Config) -> Iterator[Finding]:
    found = read_requirements()
    python, requirements = found.python, _list_requirements(found)
    fits = SpecifierSet(python).contains(platform.python_version())
    yield Finding("python", fits, f"{platform.python_version()}, {python} is needed", f"use Python {python}")
    num_good = 0
    versions = {}
    for requirement, extra in requirements:
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            version = ""
        if version and requirement.specifier.contains(version, prereleases=True):
            num_good += 1
            versions[requirement.name] = version
            continue
        wanted = f"{requirement.name}{requirement.specifier}"
        detail = f"{requirement.name} {version or 'is missing'}, {wanted} is needed"
        severity = None if extra in OPTIONAL_EXTRAS else False
        yield Finding("library", severity, detail, f"pip install '{wanted}'")
    shown = ", ".join(f"{name} {versions[name]}" for name in ("flwr", "ray", "torch") if name in versions)
    yield Finding("libraries", True, f"{num_good} of {len(requirements)} as pinned ({shown})")


def _list_requirements(found: Requirements) -> list[tuple[Requirement, str]]:
    wanted = [
        (Requirement(line), extra)
        for extra in (*REQUIRED_EXTRAS, *OPTIONAL_EXTRAS)
        for line in found.by_extra.get(extra, [])
    ]
    return [(requirement, extra) for requirement, extra in wanted if requirement.name not in DISTRIBUTIONS]


def _check_generated_code(_: Config) -> Iterator[Finding]:
    folder = Path(__file__).resolve().parents[2] / "protos" / "fedstill" / "v1"
    for name, package, pattern, files in (
        ("protobuf", "protobuf", r"# Protobuf Python Version: (\S+)", "*_pb2.py"),
        ("grpc", "grpcio", r"GRPC_GENERATED_VERSION = '(\S+)'", "*_pb2_grpc.py"),
    ):
        generated = [
            Version(match[1])
            for path in sorted(folder.glob(files))
            if (match := re.search(pattern, path.read_text(encoding="utf-8")))
        ]
        if not generated:
            yield Finding(name, False, f"{folder} lacks {files}", f"{install_command()} again")
            continue
        try:
            runtime = Version(metadata.version(package))
        except metadata.PackageNotFoundError:
            continue
        newest = max(generated)
        detail = f"code generated for {newest}, {package} {runtime} runs it"
        yield Finding(name, runtime >= newest, detail, f"pip install '{package}>={newest}'")


def _check_ray(_: Config) -> Iterator[Finding]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray = importlib.import_module("ray")
    except Exception as error:  # noqa: BLE001 (whatever a broken install raises is the finding)
        yield Finding("ray", False, f"does not import: {error}", install_command("server"))
        return
    yield Finding("ray", True, f"{ray.__version__} imports")
    shm = Path("/dev/shm")  # noqa: S108 (Ray's own choice)
    if shm.is_dir():
        free = shutil.disk_usage(shm).free
        detail = f"{shm} has {format_bytes(free)} free for Ray's object store"
        remedy = "enlarge it (docker run --shm-size=2g), or Ray falls back to slow files on disk"
        yield Finding("shared memory", None if free < MIN_SHM_BYTES else True, detail, remedy)


def _count_cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _count_actors(config: Config) -> int:
    return config.federation.num_actors or min(config.federation.num_nodes, _count_cores())


def _check_cores(config: Config) -> Iterator[Finding]:
    cores, actors = _count_cores(), _count_actors(config)
    threads = config.federation.threads_per_node
    detail = f"{cores} cores for {actors} actors of {threads} threads"
    remedy = "lower federation.num_actors or federation.threads_per_node, or actors wait for each other"
    yield Finding("cores", None if actors * threads > cores else True, detail, remedy)


def _check_memory(config: Config) -> Iterator[Finding]:
    available = _available_memory()
    if available is None:
        yield Finding("memory", None, "cannot be read on this system", "see to 2 GB of free memory")
        return
    actors = _count_actors(config)
    needed = COORDINATOR_BYTES + actors * ACTOR_BYTES
    detail = f"{format_bytes(available)} available, about {format_bytes(needed)} for {actors} actors"
    remedy = "close other programs, lower federation.num_actors or add machines with --ray-address"
    yield Finding("memory", None if available < needed else True, detail, remedy)


def _available_memory() -> int | None:
    try:
        import psutil
    except ImportError:
        return None
    available = int(psutil.virtual_memory().available)
    # In a container the machine's memory is not ours: its control group says what is.
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return min(available, limit - int(statistics["anon"]))
    except (OSError, ValueError, KeyError):
        return available


def _nearest_folder(path: Path) -> Path:
    path = path.expanduser().absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _check_disk(_: Config) -> Iterator[Finding]:
    runs = Path("runs").absolute()
    folder = _nearest_folder(runs)
    free = shutil.disk_usage(folder).free
    detail = f"{format_bytes(free)} free for run folders in {runs}"
    remedy = f"free {format_bytes(MIN_DISK_BYTES)}, or choose another disk with --run-dir"
    ok = False if free < TOO_LITTLE_DISK_BYTES else None if free < MIN_DISK_BYTES else True
    if not os.access(folder, os.W_OK | os.X_OK):
        ok, detail, remedy = False, f"{folder} cannot be written", "choose another folder with --run-dir"
    yield Finding("disk", ok, detail, remedy)


def _check_cache(config: Config) -> Iterator[Finding]:
    cache = (
        (Path(config.exchange.cache_dir) if config.exchange.cache_dir else default_home())
        .expanduser()
        .absolute()
    )
    folder = _nearest_folder(cache)
    blocked = next((path for path in (cache, *cache.parents) if path.exists()), folder)
    remedy = "make it a writable folder, or set exchange.cache_dir to one"
    if not blocked.is_dir():
        yield Finding("cache", False, f"{blocked} is no folder", remedy)
        return
    free = shutil.disk_usage(folder).free
    writable = os.access(folder, os.W_OK | os.X_OK)
    state = f"{format_bytes(free)} free" if writable else "cannot be written"
    ok = None if writable and free < TOO_LITTLE_DISK_BYTES else writable
    yield Finding("cache", ok, f"label cache and node store in {cache}: {state}", remedy)


def _check_ports(config: Config) -> Iterator[Finding]:
    wanted = [("exchange", config.exchange.host, config.exchange.port)]
    if config.monitoring.enabled:
        wanted.append(("monitoring", config.monitoring.host, config.monitoring.port))
    ports = [port for _, _, port in wanted if port]
    for section, host, port in wanted:
        name = f"{section} port"
        problem = _try_port(host, port)
        if problem is None and ports.count(port) > 1:
            problem = f"{port} is also the port of the other service", f"set {section}.port to another"
        if problem is not None:
            yield Finding(name, False, problem[0], problem[1].format(section=section))
        else:
            detail = f"{host}:{port} can be bound" if port else f"a free port of {host} will be taken"
            yield Finding(name, True, detail)


def _try_port(host: str, port: int) -> tuple[str, str] | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return f"{host}:{port} is taken", "set {section}.port to another port, or to 0 for a free one"
        if isinstance(error, PermissionError):
            return f"{host}:{port} needs privileges", "set {section}.port to 1024 or above"
        reason = error.strerror or str(error)
        return f"{host}:{port} cannot be bound ({reason})", "set {section}.host to an address of this machine"
    return None


def _check_transport(config: Config) -> Iterator[Finding]:
    try:
        from fedstill.common.certificates import is_loopback
        from fedstill.server.labels.transport import ServerCertificates
    except ModuleNotFoundError:  # which library lacks is said already
        return
    exchange = config.exchange
    if exchange.certificates_dir:
        folder = Path(exchange.certificates_dir)
        try:
            end = ServerCertificates(folder).end
        except UsageError as error:
            yield Finding("transport", False, str(error), "fedstill certs init or renew makes what is needed")
            return
        days = (end - datetime.now(UTC)).days
        detail = f"mutual TLS, the coordinator's certificate lasts {days} days"
        yield Finding("transport", None if days < FEW_DAYS else True, detail, "fedstill certs renew")
    elif is_loopback(exchange.host):
        yield Finding("transport", True, "plaintext, on this machine only")
    else:
        detail = f"plaintext to other machines on {exchange.host}"
        remedy = "set exchange.certificates_dir, or exchange.allow_insecure on a network that you trust"
        yield Finding("transport", None if exchange.allow_insecure else False, detail, remedy)


def _check_data(config: Config) -> Iterator[Finding]:
    source = config.data.source
    try:
        data = load_dataset(config.data, seed=config.seed)
    except DataError as error:
        yield Finding("data", False, str(error), "set data.source to a built-in name or a readable path")
        return
    sizes = f"{len(data.y_train):,} training and {len(data.y_test):,} evaluation samples"
    yield Finding("data", True, f"{source}: {sizes} of {len(data.class_names)} classes ({data.task})")


def _check_teacher(config: Config) -> Iterator[Finding]:
    key, kind = ("labels", ".npz or .parquet") if config.teacher.labels else ("checkpoint", ".safetensors")
    if not (name := config.teacher.labels or config.teacher.checkpoint):
        return
    path = Path(name).expanduser()
    readable = path.is_file() and os.access(path, os.R_OK)
    detail = f"{path}: {format_bytes(path.stat().st_size)}" if readable else f"{path} cannot be read"
    yield Finding("teacher", readable, detail, f"set teacher.{key} to a readable {kind} file")
