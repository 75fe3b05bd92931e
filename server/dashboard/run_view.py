"""One run as the page shows it: read once, then followed."""

from __future__ import annotations

import json
import shlex
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedstill.common.compressors import CompressionPlan, list_settings, make_plan
from fedstill.common.config import defaults
from fedstill.common.errors import ConfigError
from fedstill.server.dashboard.discovery import SUMMARY_FILE, read_flat_config
from fedstill.server.dashboard.following import LineTail
from fedstill.server.dashboard.metrics import METRICS_FILE, read_metrics
from fedstill.server.dashboard.rounds import HISTORY, NODE_COLUMNS, NodeView, account_round, tell_node
from fedstill.server.run.logs import LOG_FILE
from fedstill.server.run.state import STATE_FILE, is_live, read_holders

MAX_EVENTS = 400
MAX_NODE_EVENTS = 50
# rounds.jsonl tells the same of committed rounds, and a thousand nodes would drown the rest.
_PASSED_OVER = ("node_reported",)
# Beside the runs of a coordinator of devices, which goes on by a command of its own.
_COORDINATOR_MARK = "superlink.db"
_NODES_MARK = '\n "nodes": '


class RunView:
    """Follows one run folder; call `refresh` from one thread at a time.

    Args:
        name: The run, as the page asks for it.
        folder: The run folder.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self._begin()

    def _begin(self) -> None:
        folder = self.folder
        self._rounds_tail = LineTail(folder / "rounds.jsonl")
        self._log_tail = LineTail(folder / LOG_FILE)
        self._restarts = 0
        self._summary: dict[str, Any] | None = None
        self._summary_stamp = (0, 0)
        self._state_round = -1
        self._config = read_flat_config(folder)
        self._rounds: list[dict[str, Any]] = []
        self._entropies: dict[int, float] = {}
        self._nodes: dict[str, NodeView] = {}
        self._events: deque[dict[str, Any]] = deque(maxlen=MAX_EVENTS)
        self._told: dict[str, Any] = {"started": None, "updated": None, "teacher": None, "event": None}
        self._phase: dict[str, Any] | None = None
        self._num_events = 0
        self._metrics: dict[str, Any] | None = None
        self._metrics_stamp = 0
        self._live = False

    def refresh(self) -> dict[str, Any]:
        """Reads what is new.

        Returns:
            What changed, as `snapshot` writes it; with `anew` where the page has to begin again.
        """
        num_rounds, num_events = len(self._rounds), self._num_events
        self._live = is_live(self.folder, read_holders())
        touched = self._follow_log() | self._follow_rounds()
        restarts = self._rounds_tail.num_restarts + self._log_tail.num_restarts
        if restarts != self._restarts:
            self._begin()
            return self.refresh() | {"anew": True}
        touched |= self._read_summary()
        touched |= self._read_state()
        metrics = self._read_metrics()
        changed: dict[str, Any] = {"overview": self._overview()}
        if metrics != self._metrics:
            self._metrics = changed["metrics"] = metrics
        if len(self._rounds) > num_rounds:
            changed["rounds"] = self._rounds[num_rounds:]
        if touched:
            changed["nodes"] = self._rows(touched)
        if self._num_events > num_events:
            changed["events"] = list(self._events)[-(self._num_events - num_events) :]
        return changed

    def snapshot(self) -> dict[str, Any]:
        """Writes all that the page shows of the run, except nodes' histories."""
        return {
            "overview": self._overview(),
            "rounds": self._rounds,
            "columns": NODE_COLUMNS,
            "nodes": self._rows(set(self._nodes)),
            "events": list(self._events),
            "metrics": self._metrics,
            "config": self._describe_config(),
        }

    def describe_node(self, node_id: str) -> dict[str, Any] | None:
        """Writes a node's figures, rounds, events and artefact; None for a node that it does not know."""
        node = self._nodes.get(node_id)
        if node is None:
            return None
        return {
            "node": dict(zip(NODE_COLUMNS, tell_node(node), strict=True)),
            "history": {"columns": HISTORY, "rows": node.tell_history()},
            "events": list(node.events),
            "details": node.tell_details(),
            "manifest": self._read_manifest(node.node_id),
            "compress": self._describe_plan(node.node_id),
        }

    def _rows(self, node_ids: set[str]) -> list[list[Any]]:
        return [tell_node(self._nodes[node_id]) for node_id in sorted(node_ids)]

    def _node(self, node_id: str) -> NodeView:
        if node_id not in self._nodes:
            self._nodes[node_id] = NodeView(node_id, events=deque(maxlen=MAX_NODE_EVENTS))
        return self._nodes[node_id]

    def _follow_log(self) -> set[str]:
        touched = set()
        for line in self._log_tail.read(without=_PASSED_OVER):
            event, node_id = line.get("event"), line.get("node")
            self._told["updated"], self._told["event"] = line.get("time"), event
            self._take(line)
            if isinstance(node_id, str) and event == "node_closed":
                node = self._node(node_id)
                for name in ("local_accuracy", "local_private_accuracy"):
                    node.details[name] = line.get(name)
                node.latency_seconds = line.get("latency_seconds_batch1")
                touched.add(node_id)
                continue
            self._events.append(line)
            self._num_events += 1
            # A name in the log may be a stranger's own word: only nodes of this run have a page.
            if isinstance(node_id, str) and (node_id in self._nodes or event == "reply_dropped"):
                node = self._node(node_id)
                node.num_drops += event == "reply_dropped"
                node.events.append(line)
                touched.add(node_id)
        return touched

    def _take(self, line: Mapping[str, Any]) -> None:
        match line.get("event"):
            case "run_started":
                self._told["started"] = self._told["started"] or line.get("time")
                self._told |= {
                    name: line.get(name) for name in ("num_nodes", "num_rounds", "dataset", "codec")
                }
                self._told["run_id"] = line.get("run")
            case "teacher_ready":
                names = ("accuracy", "validation_accuracy", "num_parameters", "size_bytes")
                self._told["teacher"] = {name: line.get(name) for name in names}
            case "phase_started":
                self._phase = {name: line.get(name) for name in ("phase", "time", "total", "round")}
            case "phase_ended":
                if self._phase is not None and self._phase["phase"] == line.get("phase"):
                    self._phase = None
            case "labels_published":
                number = line.get("round") or 0
                self._entropies[number] = line.get("entropy_nats") or 0.0

    def _follow_rounds(self) -> set[str]:
        touched = set()
        for entry in self._rounds_tail.read():
            if not isinstance(entry.get("round"), int):
                continue
            reports = [report for report in entry.get("nodes") or [] if isinstance(report, dict)]
            for report in reports:
                node = self._node(str(report.get("node_id")))
                node.take(entry["round"], report)
                touched.add(node.node_id)
            self._rounds.append(account_round(entry, reports))
        return touched

    def _read_state(self) -> set[str]:
        # What a node holds is known from the first round on, and its rests change with rounds.
        if self._state_round == len(self._rounds) or self._summary is not None:
            return set()
        try:
            nodes = _read_nodes((self.folder / STATE_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError):
            return set()
        self._state_round = len(self._rounds)
        for node_id, entry in nodes.items():
            node = self._node(node_id)
            node.num_train_samples = entry.get("num_train_samples")
            node.rests_until = entry.get("rests_until") or 0
            node.family = node.family or entry.get("family") or ""
        return set(nodes)

    def _read_summary(self) -> set[str]:
        path = self.folder / SUMMARY_FILE
        try:
            stat = path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size)
            if stamp == self._summary_stamp:
                return set()
            summary = json.loads(path.read_text(encoding="utf-8"))
            nodes = summary.pop("nodes")
        except (OSError, ValueError, KeyError):
            return set()
        self._summary, self._summary_stamp = summary, stamp
        for entry in nodes:
            node = self._node(entry["node_id"])
            node.conclude(entry)
        return {entry["node_id"] for entry in nodes}

    def _read_metrics(self) -> dict[str, Any] | None:
        if self._live:
            return read_metrics(self.folder, live=True)
        try:
            stamp = (self.folder / METRICS_FILE).stat().st_mtime_ns
        except OSError:
            return self._metrics
        if stamp == self._metrics_stamp:
            return self._metrics
        self._metrics_stamp = stamp
        return read_metrics(self.folder, live=False)

    def _overview(self) -> dict[str, Any]:
        summary, told, config = self._summary or {}, self._told, self._config
        has_ended = told["event"] in ("run_finished", "scrape_awaited")
        status = "live" if self._live and not has_ended else "finished" if self._summary else "stopped"
        return {
            "name": self.name,
            "run_id": summary.get("run_id") or told.get("run_id") or self.folder.name,
            "status": status,
            "scheme": config.get("federation.scheme"),
            "dataset": summary.get("dataset") or told.get("dataset") or config.get("data.source"),
            "seed": config.get("seed"),
            "codec": config.get("exchange.codec"),
            "num_nodes": told.get("num_nodes") or len(self._nodes),
            "num_rounds": told.get("num_rounds") or config.get("federation.num_rounds"),
            "phase": self._phase if status == "live" else None,
            "started": told["started"],
            "updated": told["updated"],
            "teacher": summary.get("teacher") or told["teacher"],
            "fleet": summary.get("fleet"),
            "eval_set": summary.get("eval_set"),
            "wall_seconds": summary.get("wall_seconds"),
            "stopped_because": summary.get("stopped_because"),
            "num_resumes": summary.get("num_resumes") or 0,
            "version": summary.get("version"),
            "entropies": sorted(self._entropies.items()),
            "has_report": (self.folder / "report.html").is_file(),
            "resume_command": _resume_command(self.folder),
        }

    def _describe_config(self) -> list[list[Any]]:
        known = defaults()
        return [[key, value, key not in known or known[key] != value] for key, value in self._config.items()]

    def _read_manifest(self, node_id: str) -> dict[str, Any] | None:
        path = self.folder / "nodes" / node_id / "artefact" / "manifest.json"
        try:
            if not path.resolve().is_relative_to(self.folder.resolve()):
                return None
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return _without_unused(manifest) if isinstance(manifest, dict) else None

    def _describe_plan(self, node_id: str) -> dict[str, Any]:
        """What is to be done to a node's student: as planned for it, or as configured for all."""
        configured = {
            name.removeprefix("compress."): value
            for name, value in self._config.items()
            if name.startswith("compress.")
        }
        try:
            if self._config.get("student.plan") == "auto":
                nodes = _read_nodes((self.folder / STATE_FILE).read_text(encoding="utf-8"))
                own = (nodes[node_id].get("plan") or {}).get("compression")
                configured = own | {"steps": tuple(own["steps"])} if own else configured
            return list_settings(make_plan(**configured))
        except (OSError, ValueError, KeyError, TypeError, ConfigError):
            return {}


def _read_nodes(state: str) -> dict[str, Any]:
    # Behind the nodes come all rounds, which are ten times as long: they are not parsed.
    start = state.find(_NODES_MARK)
    if start < 0:
        return dict(json.loads(state)["nodes"])
    nodes, _ = json.JSONDecoder().raw_decode(state, start + len(_NODES_MARK))
    return dict(nodes)


def _without_unused(manifest: dict[str, Any]) -> dict[str, Any]:
    """Leaves out of a manifest's plan what none of its steps uses."""
    try:
        plan = manifest["compression"]["plan"]
        settings = list_settings(CompressionPlan(**plan | {"steps": tuple(plan["steps"])}))
    except (KeyError, TypeError):  # of another version
        return manifest
    return manifest | {"compression": manifest["compression"] | {"plan": settings}}


def _resume_command(folder: Path) -> str:
    folder = folder.resolve()
    home = folder.parent.parent
    if (home / _COORDINATOR_MARK).exists():
        return f"fedstill coordinator --home {shlex.quote(str(home))} --run-id {shlex.quote(folder.name)}"
    return f"fedstill simulate --resume {shlex.quote(str(folder))}"
