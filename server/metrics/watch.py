"""What is read at each scrape instead of told by an event: checkpoint, disk, certificates, actors."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cryptography import x509
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fedstill.server.metrics.catalogue import RUN_METRICS
from fedstill.server.metrics.run import RunMetrics
from fedstill.server.run.state import STATE_FILE

CERTIFICATE_ENDINGS = (".pem", ".crt")
# A folder of enrolled nodes can hold thousands; those of coordinator and authority are few.
MAX_CERTIFICATES = 32


def watch_run_folder(
    metrics: RunMetrics, run_dir: Path, *, disk_usage: Callable[[Path], Any] = shutil.disk_usage
) -> None:
    """Lets every scrape read age and size of the checkpoint and the free disk.

    Args:
        metrics: What shows them.
        run_dir: The run folder.
        disk_usage: Gives `free` and `total` of a folder's disk, in bytes.
    """
    state = run_dir / STATE_FILE
    metrics["checkpoint_timestamp_seconds"].set_function(_or_unknown(lambda: state.stat().st_mtime))
    metrics["checkpoint_bytes"].set_function(_or_unknown(lambda: state.stat().st_size))
    metrics["disk_free_bytes"].set_function(_or_unknown(lambda: disk_usage(run_dir).free))
    metrics["disk_size_bytes"].set_function(_or_unknown(lambda: disk_usage(run_dir).total))


def watch_actors(metrics: RunMetrics, grid: Any) -> None:
    """Lets every scrape count the actors of a grid that has any, as `RayGrid`."""
    if hasattr(grid, "num_actors") and hasattr(grid, "num_restarts"):
        metrics["actors"].set_function(lambda: grid.num_actors)
        metrics["actor_restarts"].set_function(lambda: grid.num_restarts)


def watch_certificates(metrics: RunMetrics, certificates_dir: Path) -> None:
    """Lets every scrape read when the certificates of a folder end, so that a new one shows at once."""
    metrics.registry.register(_Certificates(certificates_dir))


def read_expiries(certificates_dir: Path) -> dict[str, float]:
    """Reads when certificates end.

    Args:
        certificates_dir: Folder with PEM files; keys among them are passed over.

    Returns:
        End of validity, seconds since 1970, by file name; of a chain the one that ends first.
    """
    paths = sorted(path for path in certificates_dir.glob("*") if path.suffix in CERTIFICATE_ENDINGS)
    expiries: dict[str, float] = {}
    for path in paths:
        try:
            chain = x509.load_pem_x509_certificates(path.read_bytes())
        except (OSError, ValueError):
            continue
        expiries[path.name] = min(item.not_valid_after_utc.timestamp() for item in chain)
        if len(expiries) == MAX_CERTIFICATES:
            break
    return expiries


class _Certificates(Collector):
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        [metric] = (item for item in RUN_METRICS if item.name == "certificate_expiry_timestamp_seconds")
        family = GaugeMetricFamily(metric.full_name, metric.text, labels=metric.labels)
        for name, seconds in read_expiries(self._folder).items():
            family.add_metric([name], seconds)
        yield family


def _or_unknown(read: Callable[[], float]) -> Callable[[], float]:
    # A scrape must not fail because a file is being replaced or a disk is gone.
    def value() -> float:
        try:
            return read()
        except OSError:
            return math.nan

    return value
