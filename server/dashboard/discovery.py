"""Which runs a folder holds, and how each is doing, without reading more than that takes."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedstill.server.dashboard.following import LineTail
from fedstill.server.run.logs import LOG_FILE
from fedstill.server.run.state import STATE_FILE, is_live

# Comparisons keep their runs two folders down.
MAX_DEPTH = 3
MAX_RUNS = 2000
SUMMARY_FILE = "summary.json"
_TOLD = ("run_started", "teacher_ready", "round_closed", "run_finished", "phase_started")


def find_runs(root: Path) -> dict[str, Path]:
    """Finds run folders in a folder and below, without following links.

    Args:
        root: The folder; it may be a run folder itself.

    Returns:
        Run folders by their path relative to `root`, which is what a page may ask for.
    """
    if is_run(root):
        return {root.resolve().name: root}
    found: dict[str, Path] = {}
    for path in _walk(root, MAX_DEPTH):
        found[path.relative_to(root).as_posix()] = path
        if len(found) == MAX_RUNS:
            break
    return found


def is_run(folder: Path) -> bool:
    """Says whether a folder was filled by a run."""
    return (folder / "config.toml").is_file() and (
        (folder / STATE_FILE).is_file() or (folder / SUMMARY_FILE).is_file()
    )


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            folders = sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return
    for path in map(Path, folders):
        if is_run(path):
            yield path
        elif depth > 1 and not path.name.startswith("."):
            yield from _walk(path, depth - 1)


def read_flat_config(folder: Path) -> dict[str, Any]:
    """Reads a run's configuration with dotted keys; empty where it cannot be read."""
    try:
        document = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            flat[key] = value
    return flat


@dataclass
class Brief:
    """What the list of runs shows of one; it is read again only where a file has changed."""

    folder: Path
    figures: dict[str, Any] = field(default_factory=dict)
    _log: LineTail = field(init=False)
    _summary_stamp: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        config = read_flat_config(self.folder)
        self._log = LineTail(self.folder / LOG_FILE)
        self.figures = {
            "scheme": config.get("federation.scheme"),
            "dataset": Path(str(config.get("data.source", ""))).name,
            "seed": config.get("seed"),
            "num_nodes": config.get("federation.num_nodes"),
            "num_rounds": config.get("federation.num_rounds"),
            "round": 0,
            "phase": None,
            "accuracies": [],
            "accuracy": None,
            "teacher_accuracy": None,
            "local_accuracy": None,
            "bytes": None,
            "artefact_bytes": None,
            "seconds": None,
            "started": None,
            "updated": None,
            "stopped_because": None,
        }

    def refresh(self, holders: set[tuple[int, int]]) -> dict[str, Any]:
        """Reads what is new.

        Args:
            holders: Of locks, as `read_holders` gives them.

        Returns:
            The run's figures with its status: live, finished or stopped.
        """
        for line in self._log.read(containing=_TOLD):
            self._take(line)
        self._read_summary()
        has_ended = self.figures.get("event") == "run_finished"
        if is_live(self.folder, holders) and not has_ended:
            status = "live"
        else:
            status = "finished" if self._summary_stamp != (0, 0) else "stopped"
        return {name: value for name, value in self.figures.items() if name != "event"} | {"status": status}

    def _take(self, line: Mapping[str, Any]) -> None:
        figures, event = self.figures, line.get("event")
        figures["event"], figures["updated"] = event, line.get("time")
        if event == "run_started":
            figures["started"] = figures["started"] or line.get("time")
            figures |= {name: line.get(name) for name in ("num_nodes", "num_rounds", "dataset")}
        elif event == "teacher_ready":
            figures["teacher_accuracy"] = line.get("accuracy")
        elif event == "phase_started":
            figures["phase"] = line.get("phase")
        elif event == "round_closed":
            figures["round"] = line.get("round")
            if line.get("accuracy_mean") is not None:  # else nothing was evaluated
                figures["accuracy"] = line["accuracy_mean"]
                figures["accuracies"] = [*figures["accuracies"], line["accuracy_mean"]][-200:]

    def _read_summary(self) -> None:
        path = self.folder / SUMMARY_FILE
        try:
            stat = path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size)
            if stamp == self._summary_stamp:
                return
            summary = json.loads(path.read_text(encoding="utf-8"))
            fleet, teacher, rounds = summary["fleet"], summary["teacher"] or {}, summary["rounds"]
            figures = {
                "dataset": summary["dataset"],
                "num_nodes": len(summary["nodes"]),
                "round": len(rounds),
                "accuracies": [
                    entry["accuracy_mean"] for entry in rounds if entry["accuracy_mean"] is not None
                ][-200:],
                "accuracy": fleet["accuracy_mean"],
                "teacher_accuracy": teacher.get("accuracy"),
                "local_accuracy": fleet["local_accuracy_mean"],
                "bytes": fleet["bytes_down"] + fleet["bytes_up"],
                "artefact_bytes": fleet["artefact_bytes_mean"],
                "seconds": summary["wall_seconds"],
                "stopped_because": summary["stopped_because"],
                "updated": self.figures["updated"],
            }
        except (OSError, ValueError, KeyError, TypeError):
            return
        self.figures |= figures
        self._summary_stamp = stamp
