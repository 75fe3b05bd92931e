"""The panels of every dashboard.

Each expression here is run by the tests on a Prometheus that scrapes a real run.
"""

from __future__ import annotations

from dataclasses import dataclass

CHOSEN = 'instance=~"$instance"'
"""Matches the coordinator that the reader chose."""


@dataclass(frozen=True)
class Query:
    """One expression, where @ stands for the label matcher of the chosen coordinator, and its legend."""

    expr: str
    legend: str = ""

    @property
    def full_expr(self) -> str:
        """The expression as Grafana has it."""
        return self.expr.replace("{@", "{" + CHOSEN)


@dataclass(frozen=True)
class PanelSpec:
    """One panel: a time series, unless `kind` says stat or table."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    width: int = 8
    text: str = ""


def _stat(title: str, unit: str, expr: str) -> PanelSpec:
    return PanelSpec(title, unit, (Query(expr),), kind="stat", width=4)


FLEET = (
    _stat("Round", "short", "fedstill_round{@}"),
    _stat("Rounds at most", "short", "fedstill_rounds_limit{@}"),
    _stat("Ends", "dateTimeFromNow", "1000 * fedstill_expected_end_timestamp_seconds{@}"),
    _stat("Teacher", "percentunit", "fedstill_teacher_accuracy_ratio{@}"),
    _stat("Students, mean", "percentunit", "fedstill_fleet_accuracy_mean_ratio{@}"),
    _stat("Gap to the teacher", "percentunit", "fedstill_fleet_gap_ratio{@}"),
    PanelSpec(
        "Accuracy on the evaluation set",
        "percentunit",
        (
            Query('fedstill_fleet_accuracy_ratio{@, family="all"}', "p{{percentile}}"),
            Query("fedstill_teacher_accuracy_ratio{@}", "teacher"),
        ),
        width=12,
    ),
    PanelSpec(
        "Weakest students by family",
        "percentunit",
        (Query('fedstill_fleet_accuracy_ratio{@, percentile="5"}', "{{family}}"),),
        width=12,
        text="Fifth percentile over each node's newest artefact.",
    ),
    PanelSpec(
        "Nodes of the newest round",
        "short",
        (
            Query("fedstill_round_selected_nodes{@}", "selected"),
            Query("fedstill_round_answered_nodes{@}", "answered"),
            Query("fedstill_round_quorum_nodes{@}", "quorum"),
            Query("fedstill_nodes{@}", "of the federation"),
            Query("fedstill_nodes_without_series{@}", "without series"),
        ),
    ),
    PanelSpec(
        "Replies not used, by reason",
        "short",
        (Query("increase(fedstill_nodes_dropped_total{@}[$__rate_interval])", "{{reason}}"),),
    ),
    PanelSpec(
        "Nodes rested, by reason",
        "short",
        (Query("increase(fedstill_nodes_rested_total{@}[$__rate_interval])", "{{reason}}"),),
    ),
    PanelSpec("Phases", "bool_on_off", (Query("fedstill_phase_active{@}", "{{phase}}"),)),
    PanelSpec(
        "Duration of phases, 90th percentile",
        "s",
        (
            Query(
                "histogram_quantile(0.9, sum by (le, side, phase)"
                " (rate(fedstill_phase_seconds_bucket{@}[$__range])))",
                "{{side}} {{phase}}",
            ),
        ),
    ),
    PanelSpec(
        "Losses",
        "short",
        (
            Query("fedstill_distillation_loss{@}", "distillation {{family}}"),
            Query("fedstill_private_loss{@}", "private {{family}}"),
        ),
    ),
    PanelSpec(
        "Checkpoint age", "s", (Query("time() - fedstill_checkpoint_timestamp_seconds{@}", "{{instance}}"),)
    ),
    PanelSpec(
        "Disk",
        "bytes",
        (Query("fedstill_disk_free_bytes{@}", "free"), Query("fedstill_disk_size_bytes{@}", "size")),
    ),
    PanelSpec(
        "Ray actors",
        "short",
        (Query("fedstill_actors{@} >= 0", "ready"), Query("fedstill_actor_restarts{@} >= 0", "restarts")),
    ),
    PanelSpec(
        "Since the run began",
        "short",
        (
            Query("fedstill_rounds_committed_total{@}", "rounds"),
            Query("fedstill_nodes_selected_total{@}", "selected"),
            Query("fedstill_nodes_replied_total{@}", "replied"),
        ),
    ),
    PanelSpec("Checkpoint size", "bytes", (Query("fedstill_checkpoint_bytes{@}", "{{instance}}"),)),
    PanelSpec(
        "Latency of artefacts, median",
        "s",
        (
            Query(
                "histogram_quantile(0.5, sum by (le)"
                " (rate(fedstill_artefact_latency_seconds_bucket{@}[$__range])))",
                "median",
            ),
        ),
    ),
    PanelSpec("Warnings", "short", (Query("fedstill_warnings_total{@}", "{{instance}}"),)),
    PanelSpec("State resets", "short", (Query("fedstill_state_resets_total{@}", "{{instance}}"),)),
    PanelSpec("Mean round", "s", (Query("fedstill:round_seconds:mean{@}", "{{instance}}"),)),
)

NODE = (
    PanelSpec(
        "Accuracy on the evaluation set",
        "percentunit",
        (Query('fedstill_node_accuracy_ratio{@, node_id=~"$node"}', "{{node_id}}"),),
        width=12,
    ),
    PanelSpec(
        "Accuracy on the node's own test part, as it says",
        "percentunit",
        (Query('fedstill_node_private_accuracy_ratio{@, node_id=~"$node"}', "{{node_id}}"),),
        width=12,
    ),
    PanelSpec(
        "Agreement with the teacher",
        "percentunit",
        (Query('fedstill_node_agreement_ratio{@, node_id=~"$node"}', "{{node_id}}"),),
    ),
    PanelSpec(
        "Size of artefact and fp32 student",
        "bytes",
        (
            Query('fedstill_node_model_bytes{@, node_id=~"$node"}', "{{node_id}} artefact"),
            Query('fedstill_node_fp32_bytes{@, node_id=~"$node"}', "{{node_id}} fp32"),
            Query('fedstill_node_budget_bytes{@, node_id=~"$node"}', "{{node_id}} budget"),
        ),
    ),
    PanelSpec(
        "Latency of one sample",
        "s",
        (
            Query('fedstill_node_latency_seconds{@, node_id=~"$node"}', "{{node_id}}"),
            Query('fedstill_node_budget_latency_seconds{@, node_id=~"$node"}', "{{node_id}} budget"),
        ),
        text="Measured after the last round, one node at a time.",
    ),
    PanelSpec(
        "Since the last reply",
        "s",
        (
            Query(
                'time() - fedstill_node_last_seen_timestamp_seconds{@, node_id=~"$node"}',
                "{{node_id}}",
            ),
        ),
    ),
    PanelSpec(
        "Rounds behind",
        "short",
        (
            Query(
                'max(fedstill_round{@}) - on () group_right () fedstill_node_last_round{@, node_id=~"$node"}',
                "{{node_id}}",
            ),
        ),
    ),
    PanelSpec(
        "Replies not used",
        "short",
        (Query('fedstill_node_drops_total{@, node_id=~"$node"}', "{{node_id}}"),),
    ),
    PanelSpec(
        "Weakest nodes",
        "percentunit",
        (Query("bottomk(20, fedstill_node_accuracy_ratio{@})"),),
        kind="table",
        width=12,
    ),
    PanelSpec(
        "Longest silent",
        "s",
        (Query("topk(20, time() - fedstill_node_last_seen_timestamp_seconds{@})"),),
        kind="table",
        width=12,
    ),
)

EXCHANGE = (
    PanelSpec(
        "Labels down and reports up, by codec",
        "Bps",
        (
            Query("fedstill:down_bytes:rate5m{@}", "down {{codec}}"),
            Query("fedstill:up_bytes:rate5m{@}", "up {{codec}}"),
        ),
        width=12,
        text="As each node alone would move them.",
    ),
    PanelSpec(
        "Moved since the run began",
        "bytes",
        (
            Query("fedstill_down_bytes_total{@}", "labels down"),
            Query("fedstill_up_bytes_total{@}", "up"),
            Query("fedstill_public_sample_bytes_total{@}", "public samples"),
            Query("fedstill_wire_bytes_total{@}", "what crossed"),
        ),
        width=12,
    ),
    PanelSpec(
        "Calls by method and code",
        "reqps",
        (
            Query(
                "sum by (method, code) (rate(fedstill_grpc_calls_total{@}[$__rate_interval]))",
                "{{method}} {{code}}",
            ),
        ),
    ),
    PanelSpec(
        "Failed calls", "percentunit", (Query("fedstill:grpc_failures:ratio_rate5m{@}", "{{instance}}"),)
    ),
    PanelSpec(
        "Duration of calls, 90th percentile",
        "s",
        (
            Query(
                "histogram_quantile(0.9, sum by (le, method)"
                " (rate(fedstill_grpc_call_seconds_bucket{@}[$__range])))",
                "{{method}}",
            ),
        ),
    ),
    PanelSpec(
        "Payload by method",
        "Bps",
        (Query("sum by (method) (rate(fedstill_grpc_bytes_total{@}[$__rate_interval]))", "{{method}}"),),
    ),
    PanelSpec(
        "Entropy of published labels",
        "short",
        (Query("fedstill_label_entropy_nats{@}", "{{instance}}"),),
        text="Nats, at the run's temperature.",
    ),
    PanelSpec(
        "Ensemble and teacher apart",
        "short",
        (Query("fedstill_ensemble_teacher_kl_nats{@} >= 0", "{{instance}}"),),
        text="Nats; only where a scheme has both.",
    ),
    PanelSpec(
        "Temperature and λ",
        "short",
        (Query("fedstill_temperature{@}", "temperature"), Query("fedstill_lambda_ratio{@}", "λ")),
    ),
    PanelSpec(
        "Sizes of artefacts",
        "bytes",
        (
            Query(
                "histogram_quantile(0.5, sum by (le) (rate(fedstill_artefact_bytes_bucket{@}[$__range])))",
                "median",
            ),
            Query("fedstill:node_model_bytes:max{@}", "largest {{family}}"),
            Query("fedstill_teacher_bytes{@}", "teacher, fp32"),
        ),
        width=16,
    ),
)

PRIVACY = (
    PanelSpec(
        "ε of the node that spent most", "short", (Query("fedstill_privacy_epsilon{@} >= 0", "{{instance}}"),)
    ),
    PanelSpec(
        "Uploads refused, by reason",
        "short",
        (Query("increase(fedstill_uploads_refused_total{@}[$__rate_interval])", "{{reason}}"),),
    ),
    PanelSpec(
        "Certificates: days left",
        "d",
        (
            Query(
                "(fedstill_certificate_expiry_timestamp_seconds{@} - time()) / 86400",
                "{{certificate}}",
            ),
        ),
    ),
    PanelSpec(
        "Private and shared accuracy",
        "percentunit",
        (
            Query("fedstill:node_private_accuracy_ratio:mean{@}", "private {{family}}"),
            Query("fedstill_fleet_accuracy_mean_ratio{@}", "shared"),
        ),
        text="A private accuracy far above the shared one is a student that remembers its own data.",
    ),
    PanelSpec("What nodes send", "bytes", (Query("fedstill_up_bytes_total{@}", "{{codec}}"),)),
    PanelSpec(
        "Calls refused as not allowed",
        "reqps",
        (
            Query(
                'sum(rate(fedstill_grpc_calls_total{@, code=~"UNAUTHENTICATED|PERMISSION_DENIED'
                '|INVALID_ARGUMENT"}[$__rate_interval])) or vector(0)',
                "refused",
            ),
        ),
    ),
)

DASHBOARDS = {"fleet": FLEET, "node": NODE, "exchange": EXCHANGE, "privacy": PRIVACY}
