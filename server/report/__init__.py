"""`report.html`: what was asked of a run, what came out, and how to have it again, in one file."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedstill.common.errors import DataError
from fedstill.common.files import write_text_atomically
from fedstill.server.analysis.flips import read_flips
from fedstill.server.report.faults import render_faults
from fedstill.server.report.page import render_page
from fedstill.server.report.pictures import (
    RoundPoint,
    draw_accuracy_against_bytes,
    draw_controls,
    draw_curves,
)
from fedstill.server.report.reproduction import read_identity
from fedstill.server.run.summary import read_summary


def write_report(run_dir: Path) -> Path:
    """Writes the report of a finished run; the same run folder gives the same bytes.

    Args:
        run_dir: Folder with summary.json, rounds.jsonl and config.toml.

    Returns:
        The path of report.html, one self-contained file.

    Raises:
        DataError: A file of the run is missing or unreadable.
    """
    summary = read_summary(run_dir)
    points = list(read_rounds(run_dir / "rounds.jsonl"))
    config = _read_config(run_dir / "config.toml")
    pictures = [draw_curves(points, summary), draw_accuracy_against_bytes(summary), draw_controls(summary)]
    page = render_page(
        summary,
        config=config,
        pictures=[picture for picture in pictures if picture],
        points=points,
        faults=render_faults(run_dir),
        identity=read_identity(run_dir, [point.label_set_id for point in points if point.label_set_id]),
        flips=read_flips(run_dir),
    )
    path = run_dir / "report.html"
    write_text_atomically(path, page)
    return path


def read_rounds(path: Path) -> Iterator[RoundPoint]:
    """Reads the accuracies in rounds.jsonl; fields that it does not know are left alone.

    Args:
        path: The file; one JSON object per line and committed round.

    Yields:
        Each round's accuracies.

    Raises:
        DataError: The file is missing or a line is no round.
    """
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _read_round(line, where=f"{path}:{number}")
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}); give the folder of a finished run") from None


def _read_round(line: str, *, where: str) -> RoundPoint:
    try:
        entry = json.loads(line)
        nodes = {node["node_id"]: node.get("accuracy") for node in entry.get("nodes") or []}
        return RoundPoint(
            round=int(entry["round"]),
            accuracy_mean=entry.get("accuracy_mean"),
            accuracies={
                node_id: float(accuracy) for node_id, accuracy in nodes.items() if accuracy is not None
            },
            bytes_down=_total(entry, "bytes_down"),
            bytes_up=_total(entry, "bytes_up"),
            public_sample_bytes=_total(entry, "public_sample_bytes"),
            label_set_id=entry.get("label_set_id") or "",
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{where}: expected one JSON object per round with `round` and `nodes`") from None


def _total(entry: dict[str, Any], name: str) -> int:
    return sum(int(node.get(name) or 0) for node in entry.get("nodes") or [])


def _read_config(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}); give the folder of a finished run") from None
    except ValueError as error:
        raise DataError(f"{path} is not valid TOML: {error}") from None
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, dict):
            flat.update({f"{key}.{name}": inner for name, inner in value.items()})
        else:
            flat[key] = value
    return flat
