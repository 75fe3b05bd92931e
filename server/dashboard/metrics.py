"""A run's own metrics: from its endpoint while it lives, from `metrics.txt` afterwards."""

from __future__ import annotations

import http.client
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# Without series of nodes, which the run folder tells better.
_SAMPLE = re.compile(r"fedstill_(?!node_)(\w+)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
METRICS_FILE = "metrics.txt"
TIMEOUT_SECONDS = 2.0
MAX_BYTES = 4_000_000
QUANTILES = (0.5, 0.9)

Samples = dict[str, list[tuple[dict[str, str], float]]]


def read_metrics(folder: Path, *, live: bool) -> dict[str, Any] | None:
    """Reads a run's aggregates.

    Args:
        folder: The run folder.
        live: Whether its coordinator is at work; the address that a killed one left behind
            may be somebody else's by now.

    Returns:
        `values`: name without `fedstill_` to a list of labels and value; `calls`: the label
        service's calls by method with codes and durations in seconds; None where there are none.
    """
    text = _scrape(folder) if live else None
    if text is None:
        try:
            text = (folder / METRICS_FILE).read_text(encoding="utf-8")
        except (OSError, ValueError):
            return None
    samples = parse_samples(text)
    values = {
        name: [[labels, value] for labels, value in found]
        for name, found in samples.items()
        if not name.endswith(("_bucket", "_created", "_sum", "_count"))
    }
    return {"values": values, "calls": list(_list_calls(samples))}


def _scrape(folder: Path) -> str | None:
    try:
        address = (folder / "metrics.address").read_text(encoding="ascii").strip()
        connection = http.client.HTTPConnection(address, timeout=TIMEOUT_SECONDS)
        try:
            connection.request("GET", "/metrics")
            answer = connection.getresponse()
            return answer.read(MAX_BYTES).decode("utf-8", "replace") if answer.status == 200 else None
        finally:
            connection.close()
    except (OSError, ValueError, http.client.HTTPException):
        return None


def parse_samples(text: str) -> Samples:
    """Parses FedStill's aggregates out of a page in Prometheus' or OpenMetrics' text format.

    Args:
        text: The page.

    Returns:
        Labels and value of each sample, by name without `fedstill_`; those without a value left out.
    """
    samples: Samples = {}
    for match in filter(None, map(_SAMPLE.match, text.splitlines())):
        name, labels, value = match.groups()
        try:
            number = float(value)
        except ValueError:
            continue
        if math.isfinite(number):
            samples.setdefault(name, []).append((dict(_parse_labels(labels or "")), number))
    return samples


def _parse_labels(text: str) -> Iterator[tuple[str, str]]:
    for name, value in _LABEL.findall(text):
        yield name, value.replace(r"\n", "\n").replace(r"\"", '"').replace(r"\\", "\\")


def _list_calls(samples: Samples) -> Iterator[dict[str, Any]]:
    codes: dict[str, dict[str, float]] = {}
    for labels, value in samples.get("grpc_calls_total", []):
        codes.setdefault(labels.get("method", ""), {})[labels.get("code", "")] = value
    sizes = {labels.get("method"): value for labels, value in samples.get("grpc_bytes_total", [])}
    for method, counts in sorted(codes.items()):
        buckets = [
            (float(labels["le"]), value)
            for labels, value in samples.get("grpc_call_seconds_bucket", [])
            if labels.get("method") == method and "le" in labels
        ]
        quantiles = {
            f"p{round(100 * quantile)}": estimate_quantile(buckets, quantile) for quantile in QUANTILES
        }
        yield {"method": method, "codes": counts, "bytes": sizes.get(method), **quantiles}


def estimate_quantile(buckets: list[tuple[float, float]], quantile: float) -> float | None:
    """Estimates a quantile of a histogram as Prometheus does, linearly within its bucket.

    Args:
        buckets: Upper bounds and cumulative counts.
        quantile: In [0, 1].

    Returns:
        The estimate; None where nothing was counted.
    """
    buckets = sorted(buckets)
    if not buckets or not buckets[-1][1]:
        return None
    wanted = quantile * buckets[-1][1]
    low, below = 0.0, 0.0
    for high, count in buckets:
        if count >= wanted:
            if math.isinf(high):
                return low
            return low + (high - low) * (wanted - below) / (count - below) if count > below else high
        low, below = high, count
    return low


def read_value(metrics: Mapping[str, Any] | None, name: str) -> float | None:
    """Picks the value of a metric without labels; None where it is not known."""
    found = metrics["values"].get(name) if metrics else None
    return float(found[0][1]) if found else None
