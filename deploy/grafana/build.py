"""Builds the dashboards: `python deploy/grafana/build.py [FOLDER]`.

What it writes is committed, and a test compares.
"""

from __future__ import annotations

import json
import string
import sys
from collections.abc import Sequence
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
from panels import CHOSEN, DASHBOARDS, PanelSpec

FOLDER = Path(__file__).parent / "dashboards"
SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")


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
    for name, panels in DASHBOARDS.items():
        (folder / f"{name}.json").write_text(build_dashboard(name, panels), encoding="utf-8")


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:2]))
