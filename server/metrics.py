"""What Prometheus sees of a run: aggregates on /metrics, one set of gauges per node on /metrics/nodes.

The two pages are apart because the second grows with the fleet: an operator scrapes it
less often, or not at all. It is rendered by hand, some ten times faster than through
prometheus_client at ten thousand nodes.
"""

from __future__ import annotations

import errno
import math
import socket
import socketserver
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder

from common.errors import UsageError
from server.events import (
    Event,
    NodeClosed,
    NodeReported,
    PhaseEnded,
    PhaseStarted,
    ReplyDropped,
    RoundClosed,
    RunStarted,
    TeacherReady,
    Warned,
)

# A phase takes from milliseconds (labels found in the store) to hours (training a teacher).
PHASE_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000)
CALL_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
ARTEFACT_BUCKETS = tuple(float(4**power * 1024) for power in range(11))
LATENCY_BUCKETS = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1)
# Callers choose the names of methods that do not exist; past this many all share one label.
MAX_METHODS = 32

NODE_GAUGES = (
    ("accuracy_ratio", "Accuracy of the node's artefact on the evaluation set."),
    ("private_accuracy_ratio", "Accuracy of the artefact on the node's own test part, as the node says."),
    ("model_bytes", "Size of the node's artefact, all files."),
    ("fp32_bytes", "Size of the node's student before compression."),
    ("agreement_ratio", "Share of the evaluation set on which the artefact agrees with the teacher."),
    ("last_round", "Newest round whose reply from the node was accepted."),
)


@dataclass(frozen=True)
class _NodeSeries:
    labels: str
    values: tuple[float | None, ...]


class RunMetrics:
    """An observer that keeps a run's metrics; safe among threads.

    Accuracies are NaN until they are known, so that no alert fires on a zero that nobody measured.

    Args:
        registry: Where the aggregates register; None makes a registry of its own.
        max_node_series: Nodes that get gauges of their own at most; further ones
            are counted in `fedstill_nodes_without_series`.
    """

    def __init__(self, registry: CollectorRegistry | None = None, *, max_node_series: int) -> None:
        self.registry = registry = CollectorRegistry() if registry is None else registry
        self._max_node_series = max_node_series
        self._lock = threading.Lock()
        self._nodes: dict[str, _NodeSeries] = {}
        self._excess: set[str] = set()
        self._methods: set[str] = set()
        self._declare_run(registry)
        self._declare_traffic(registry)

    def _declare_run(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(f"fedstill_{name}", text, labels, registry=registry)

        self._run = Info("fedstill_run", "The run that this process coordinates.", registry=registry)
        self._fleet_nodes = gauge("nodes", "Nodes of the federation.")
        self._round = gauge("round", "Round that is under way, or the last one.")
        self._rounds_limit = gauge("rounds_limit", "Upper limit of rounds.")
        self._phase = gauge("phase_active", "1 for a phase of the coordinator under way, else 0.", ("phase",))
        self._teacher_accuracy = gauge("teacher_accuracy_ratio", "The teacher's, on the evaluation set.")
        self._teacher_bytes = gauge("teacher_bytes", "Size of the teacher's fp32 weights.")
        self._fleet_accuracy = gauge(
            "fleet_accuracy_mean_ratio", "Mean over the last round's artefacts, on the evaluation set."
        )
        self._gap = gauge("fleet_gap_ratio", "Teacher minus students on the validation part, last round.")
        self._without_series = gauge(
            "nodes_without_series", "Nodes left out of /metrics/nodes by monitoring.max_node_series."
        )
        for unknown in (self._teacher_accuracy, self._teacher_bytes, self._fleet_accuracy, self._gap):
            unknown.set(math.nan)

    def _declare_traffic(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"fedstill_{name}_total", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"fedstill_{name}", text, labels, registry=registry, buckets=buckets)

        self._rounds = counter("rounds_committed", "Rounds that were committed.")
        self._sampled = counter("nodes_sampled", "Nodes sampled, summed over rounds.")
        self._replied = counter("nodes_replied", "Replies accepted, summed over rounds.")
        self._dropped = counter("nodes_dropped", "Replies that were not used.", ("reason",))
        self._warnings = counter("warnings", "Warnings that the run gave.")
        self._down = counter("down_bytes", "Labels and manifests, as each node alone would fetch them.")
        self._up = counter("up_bytes", "Uploads of nodes.")
        self._public = counter("public_sample_bytes", "Public samples, as each node alone would fetch them.")
        self._wire = counter("wire_bytes", "What really crossed, with shared caches at work.")
        self._phase_seconds = histogram(
            "phase_seconds",
            "Duration of phases, on the coordinator and on nodes.",
            PHASE_BUCKETS,
            "side",
            "phase",
        )
        self._artefact_bytes = histogram("artefact_bytes", "Sizes of reported artefacts.", ARTEFACT_BUCKETS)
        self._latency = histogram(
            "artefact_latency_seconds", "One sample through a node's artefact.", LATENCY_BUCKETS
        )
        self._calls = counter("grpc_calls", "Calls to the label service.", ("method", "code"))
        self._call_bytes = counter("grpc_bytes", "Payload of calls to the label service.", ("method",))
        self._call_seconds = histogram(
            "grpc_call_seconds", "Duration of calls to the label service.", CALL_BUCKETS, "method"
        )

    def __call__(self, event: Event) -> None:
        """Takes one event of the run."""
        match event:
            case RunStarted():
                run = {"run_id": event.run_id, "scheme": event.scheme, "dataset": event.dataset}
                self._run.info(run)
                self._fleet_nodes.set(event.num_nodes)
                self._rounds_limit.set(event.num_rounds)
            case PhaseStarted():
                self._phase.labels(event.phase).set(1)
                if event.round:
                    self._round.set(event.round)
            case PhaseEnded():
                self._phase.labels(event.phase).set(0)
                self._phase_seconds.labels("coordinator", event.phase).observe(event.seconds)
            case TeacherReady():
                self._teacher_accuracy.set(event.accuracy)
                self._teacher_bytes.set(event.size_bytes)
            case NodeReported():
                self._observe_report(event)
            case ReplyDropped():
                self._dropped.labels(event.reason).inc()
            case RoundClosed():
                self._observe_round(event)
            case NodeClosed():
                self._latency.observe(event.latency_seconds_batch1)
            case Warned():
                self._warnings.inc()

    def _observe_report(self, event: NodeReported) -> None:
        self._down.inc(event.bytes_down)
        self._up.inc(event.bytes_up)
        self._public.inc(event.public_sample_bytes)
        self._wire.inc(event.wire_bytes)
        self._artefact_bytes.observe(event.artefact_bytes)
        for phase, seconds in event.phase_seconds.items():
            self._phase_seconds.labels("node", phase).observe(seconds)
        labels = f'{{node_id="{_escape(event.node_id)}",family="{_escape(event.family)}"}} '
        values = (
            event.accuracy,
            event.private_accuracy,
            event.artefact_bytes,
            event.fp32_bytes,
            event.agreement_ratio,
            event.round,
        )
        with self._lock:
            if event.node_id in self._nodes or len(self._nodes) < self._max_node_series:
                self._nodes[event.node_id] = _NodeSeries(labels, values)
                self._excess.discard(event.node_id)
            else:
                self._excess.add(event.node_id)
            self._without_series.set(len(self._excess))

    def _observe_round(self, event: RoundClosed) -> None:
        self._round.set(event.round)
        self._rounds.inc()
        self._sampled.inc(event.num_sampled)
        self._replied.inc(event.num_replied)
        self._fleet_accuracy.set(math.nan if event.accuracy_mean is None else event.accuracy_mean)
        self._gap.set(math.nan if event.gap is None else event.gap)

    def observe_call(self, method: str, code: str, seconds: float, num_bytes: int) -> None:
        """Takes one finished call to the label service.

        Args:
            method: The method's name.
            code: gRPC status, as "OK".
            seconds: Duration.
            num_bytes: Payload that the call moved.
        """
        with self._lock:
            if method not in self._methods and len(self._methods) >= MAX_METHODS:
                method = "other"
            self._methods.add(method)
        self._calls.labels(method, code).inc()
        self._call_bytes.labels(method).inc(num_bytes)
        self._call_seconds.labels(method).observe(seconds)

    def forget_node(self, node_id: str) -> None:
        """Drops the series of a node that left; an unknown node is no error."""
        with self._lock:
            self._nodes.pop(node_id, None)
            self._excess.discard(node_id)
            self._without_series.set(len(self._excess))

    def render_nodes(self) -> bytes:
        """Renders the per-node gauges in Prometheus' text format 0.0.4."""
        with self._lock:
            nodes = list(self._nodes.values())
        lines: list[str] = []
        for index, (name, text) in enumerate(NODE_GAUGES):
            name = f"fedstill_node_{name}"
            lines.append(f"# HELP {name} {text}\n# TYPE {name} gauge\n")
            for node in nodes:
                value = node.values[index]
                if value is not None:
                    lines.append(f"{name}{node.labels}{'NaN' if value != value else value}\n")
        return "".join(lines).encode()


def _escape(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class _Handler(BaseHTTPRequestHandler):
    metrics: RunMetrics
    timeout = 10

    def do_GET(self) -> None:
        path = self.path.split("?", 1)[0]
        if path == "/metrics":
            encode, content_type = choose_encoder(self.headers.get("Accept", ""))
            self._answer(200, content_type, encode(self.metrics.registry))
        elif path == "/metrics/nodes":
            self._answer(200, CONTENT_TYPE_PLAIN_0_0_4, self.metrics.render_nodes())
        else:
            self._answer(404, "text/plain; charset=utf-8", b"Here are /metrics and /metrics/nodes.\n")

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        return "fedstill"

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are no news."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        # HTTPServer's own looks its name up, which can hang for seconds without DNS.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A scraper that hangs up is its own affair."""


class MetricsEndpoint:
    """Serves /metrics and /metrics/nodes from a thread of its own.

    Args:
        metrics: What to serve.
        host: Address to bind.
        port: Port to bind; 0 takes a free one.
    """

    def __init__(self, metrics: RunMetrics, *, host: str, port: int) -> None:
        self._metrics = metrics
        self._host = host
        self._port = port
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._address = ""

    @property
    def address(self) -> str:
        """The bound host:port; empty before `start`."""
        return self._address

    def start(self) -> None:
        """Binds and serves.

        Raises:
            UsageError: The port is taken or the address is not this machine's.
        """
        handler = type("Handler", (_Handler,), {"metrics": self._metrics})
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        server_class = type("Server", (_Server,), {"address_family": family})
        where = f"[{self._host}]" if ":" in self._host else self._host
        try:
            server = server_class((self._host, self._port), handler)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                taken = f"monitoring.port: {where}:{self._port} is taken"
                problem = f"{taken}; choose another port, or 0 for a free one"
            else:
                problem = (
                    f"cannot serve metrics on {where}:{self._port} ({error.strerror});"
                    " set monitoring.host and monitoring.port to an address of this machine"
                )
            raise UsageError(problem) from None
        self._server = server
        self._address = f"{where}:{server.server_port}"
        self._thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="metrics", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stops serving and frees the port; may be called twice."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._server = self._thread = None
