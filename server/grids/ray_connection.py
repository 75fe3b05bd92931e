"""How this process gets a Ray of its own, or joins a cluster."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import ray
import ray._private.worker

import fedstill
from fedstill.common.dialing import dial
from fedstill.common.errors import ConfigError, RunError
from fedstill.server.grids.actor_needs import ActorNeeds

PROBE_SECONDS = 5.0
# A busy machine has Ray's own processes start too late for Ray, or not at all.
MAX_STARTS = 3
END_SECONDS = 10.0
# Messages travel in calls; the store only holds those above 100 KB, for a moment.
OBJECT_STORE_BYTES = 200_000_000
# A Ray of our own has every kind of machine.
MAX_LOCAL_ACTORS = 1000
# The same sums in the same order on each machine: thread counts change results.
ENVIRONMENT = {
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
QUIET = {"log_to_driver": False, "logging_level": "CRITICAL"}


@contextlib.contextmanager
def unclosed_files_ignored() -> Iterator[None]:
    """Ray leaves files and processes of its own to the collector, which is no fault of who calls it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield


def connect(address: str | None, needs: ActorNeeds, *, num_actors: int, working_dir: Path | None) -> bool:
    """Connects this process to Ray; True where it was not connected before.

    Args:
        address: A cluster's, to which the code is shipped; None starts a Ray here.
        needs: What an actor needs; a Ray of our own is as large as all of them.
        num_actors: 0 is one per CPU.
        working_dir: A folder of the user's, shipped with the code.

    Raises:
        ConfigError: No Ray cluster answers at `address`.
        RunError: Ray does not start.
    """
    if ray.is_initialized():
        return False
    # Ray reads these as it starts: no reports to its makers, no advice on its own future.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with unclosed_files_ignored():
        if address is None:
            _start(needs, num_actors)
        else:
            _join(address, working_dir)
    # Ray prints to stdout when an actor dies, `log_to_driver` or not; the replies tell it here.
    ray._private.worker._worker_logs_enabled = False
    return True


def _start(needs: ActorNeeds, num_actors: int) -> None:
    for _ in range(MAX_STARTS):
        try:
            ray.init(
                address="local",
                num_cpus=math.ceil(num_actors * needs.cpus) or None,
                resources=dict.fromkeys(needs.kinds, MAX_LOCAL_ACTORS) or None,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                _node_ip_address="127.0.0.1",  # nothing of an own Ray is reachable from outside
                **QUIET,
            )
            return
        except Exception as error:  # noqa: BLE001 - Ray raises a bare one where its processes are late
            failure = error.with_traceback(None)
        _end_half_started()
    raise RunError(f"Ray did not start, tried {MAX_STARTS} times: {failure}") from failure


def _end_half_started() -> None:
    # Ray leaves what it had started running where the rest does not come up.
    folder = str(Path(ray.__file__).parent)
    processes = [
        process
        for process in psutil.Process().children(recursive=True)
        if any(argument.startswith(folder) for argument in _command(process))
    ]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=END_SECONDS)
    gc.collect()  # what Ray holds of them is dropped here, where its warnings are ignored


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _join(address: str, working_dir: Path | None) -> None:
    try:
        _probe(address)
        ray.init(address=address, runtime_env=_shipment(working_dir), **QUIET)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"no Ray cluster could be reached at {address}: {error};"
            " give the address that `ray start --head` printed, as HOST:PORT"
        ) from error


def _probe(address: str) -> None:
    # Ray itself keeps trying for minutes where nobody listens.
    where = address.rpartition("://")[2]
    if where.rpartition(":")[2].isdecimal():
        dial(where, timeout_seconds=PROBE_SECONDS).close()


def _package() -> Path:
    return Path(fedstill.__path__[0])


def _shipment(working_dir: Path | None) -> dict[str, Any]:
    shipment: dict[str, Any] = {
        "py_modules": [str(_package())],
        "excludes": ["__pycache__", "*.pyc"],
    }
    if working_dir is not None:
        shipment["working_dir"] = str(working_dir)
    return shipment


def actor_environment(
    given: Mapping[str, str], address: str | None, working_dir: Path | None
) -> dict[str, str]:
    """The variables of actors: `given` over `ENVIRONMENT`, and where a local Ray finds the code."""
    environment = ENVIRONMENT | dict(given)
    if address is None:
        folders = [str(_package().parent), *([str(working_dir.resolve())] if working_dir else [])]
        folders += [
            folder for folder in (environment.get("PYTHONPATH"), os.environ.get("PYTHONPATH")) if folder
        ]
        environment["PYTHONPATH"] = os.pathsep.join(folders)
    return environment
