"""What Prometheus sees of a run: aggregates on /metrics, one set of series per node on /metrics/nodes.

The two pages are apart because the second grows with the fleet: an operator scrapes it
less often, or not at all. It is rendered by hand, some ten times faster than through
prometheus_client at ten thousand nodes.
"""

from fedstill.server.metrics.catalogue import CATALOGUE, NODE_METRICS, RUN_METRICS, Metric, render_table
from fedstill.server.metrics.endpoint import MetricsEndpoint
from fedstill.server.metrics.run import MAX_METHODS, RunMetrics
from fedstill.server.metrics.watch import watch_actors, watch_certificates, watch_run_folder

__all__ = [
    "CATALOGUE",
    "MAX_METHODS",
    "NODE_METRICS",
    "RUN_METRICS",
    "Metric",
    "MetricsEndpoint",
    "RunMetrics",
    "render_table",
    "watch_actors",
    "watch_certificates",
    "watch_run_folder",
]
