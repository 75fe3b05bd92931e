"""Builds the dashboards: `python deploy/grafana/build.py [FOLDER]`.

What it writes is committed, and a test compares. A metric that neither a panel nor a rule names gets a
plain panel of its own.
"""

from __future__ import annotations

import json
import re
import string
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.builders import prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    VariableRefresh,
)
from panels import CHOSEN, DASHBOARDS, PanelSpec, Query

from fedstill.server.metrics import NODE_METRICS, RUN_METRICS, Metric

FOLDER = Path(__file__).parent / "dashboards"
RULES = ("rules.yml", "alerts.yml")
SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")
UNITS = {"bytes": "bytes", "ratio": "percentunit", "seconds": "s"}


def build_dashboard(name: str, panels: Sequence[PanelSpec]) -> str:
    """Builds one dashboard's JSON."""
    built = (
        dashboards.Dashboard(f"FedStill: {name}")
        .uid(f"fedstill-{name}")
        .tags(["fedstill"])
        .readonly()
        .refresh("30s")
        .time("now-6h", "now")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(_variable("instance", "label_values(fedstill_run_info, instance)", several=False))
    )
    if any("$node" in query.expr for panel in panels for query in panel.queries):
        wanted = f"label_values(fedstill_node_accuracy_ratio{{{CHOSEN}}}, node_id)"
        built = built.with_variable(_variable("node", wanted, several=True))
    for number, panel in enumerate(panels, start=1):
        built = built.with_panel(_panel(panel).id(number))
    plain = json.loads(json.dumps(built.build(), cls=JSONEncoder))
    return json.dumps(_without_none(plain), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def add_missing(dashboards: Mapping[str, Sequence[PanelSpec]]) -> dict[str, list[PanelSpec]]:
    """Adds a panel for each metric that nothing shows: of a run to `fleet`, of nodes to `node`."""
    shown = " ".join(
        query.expr for panels in dashboards.values() for panel in panels for query in panel.queries
    )
    shown += "".join((FOLDER.parents[1] / "prometheus" / name).read_text(encoding="utf-8") for name in RULES)
    added = {name: list(panels) for name, panels in dashboards.items()}
    for name, metrics, matchers in (
        ("fleet", RUN_METRICS, "@"),
        ("node", NODE_METRICS, '@, node_id=~"$node"'),
    ):
        for metric in metrics:
            if metric.kind != "info" and not re.search(rf"{metric.full_name}(_bucket|_sum|_count)?\b", shown):
                added[name].append(_plain_panel(metric, matchers))
    return added


def _plain_panel(metric: Metric, matchers: str) -> PanelSpec:
    series = f"{metric.full_name}{{{matchers}}}"
    if metric.kind == "histogram":
        rates = [
            f"rate({metric.full_name}_{part}{{{matchers}}}[$__rate_interval])" for part in ("sum", "count")
        ]
        series = " / ".join(rates)
    unit = UNITS.get(metric.name.rpartition("_")[2], "short")
    legend = " ".join(f"{{{{{label}}}}}" for label in metric.labels)
    title = metric.name.replace("_", " ").capitalize()
    return PanelSpec(title, unit, (Query(series, legend),), text=metric.text)


def _without_none(value: Any) -> Any:
    # The SDK writes what nobody set as null, which Grafana takes for a value.
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


def _variable(name: str, query: str, *, several: bool) -> dashboards.QueryVariable:
    variable = dashboards.QueryVariable(name).datasource(SOURCE).query(query)
    return variable.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).multi(several).include_all(several)


def _panel(spec: PanelSpec) -> timeseries.Panel | stat.Panel | table.Panel:
    kind = {"timeseries": timeseries.Panel, "stat": stat.Panel, "table": table.Panel}[spec.kind]
    panel = kind().title(spec.title).unit(spec.unit).datasource(SOURCE)
    panel = panel.span(spec.width).height(4 if spec.kind == "stat" else 8)
    if spec.text:
        panel = panel.description(spec.text)
    for letter, query in zip(string.ascii_uppercase, spec.queries, strict=False):
        target = prometheus.Dataquery().expr(query.full_expr).datasource(SOURCE).ref_id(letter)
        if query.legend:
            target = target.legend_format(query.legend)
        panel = panel.with_target(target.instant() if spec.kind == "table" else target)
    return panel


def main(folder: Path = FOLDER) -> None:
    """Writes every dashboard into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, panels in add_missing(DASHBOARDS).items():
        (folder / f"{name}.json").write_text(build_dashboard(name, panels), encoding="utf-8")


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:2]))
