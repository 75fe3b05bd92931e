"""The committed dashboards are what the code builds, and ask for metrics that exist."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedstill.server.metrics import CATALOGUE

GRAFANA = Path(__file__).resolve().parents[2] / "deploy" / "grafana"
NAMES = ("exchange", "fleet", "node", "privacy")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dashboards")
    subprocess.run([sys.executable, str(GRAFANA / "build.py"), str(folder)], check=True, timeout=60)
    return folder


def load(name: str) -> Any:
    return json.loads((GRAFANA / "dashboards" / f"{name}.json").read_text(encoding="utf-8"))


def test_the_committed_dashboards_are_those_that_are_built(built: Path) -> None:
    committed = {path.name: path.read_text(encoding="utf-8") for path in (GRAFANA / "dashboards").iterdir()}

    assert sorted(committed) == [f"{name}.json" for name in NAMES]
    assert committed == {path.name: path.read_text(encoding="utf-8") for path in built.iterdir()}, (
        "run: python deploy/grafana/build.py"
    )


@pytest.mark.parametrize("name", NAMES)
def test_panels_have_room_ids_and_queries_of_their_own(name: str) -> None:
    panels = load(name)["panels"]
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        covered = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not covered & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        cells |= covered
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters) > 0
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_every_exported_metric_is_on_a_dashboard_or_in_a_rule() -> None:
    text = "".join((GRAFANA / "dashboards" / f"{name}.json").read_text() for name in NAMES)
    for name in ("rules.yml", "alerts.yml"):
        text += (GRAFANA.parent / "prometheus" / name).read_text(encoding="utf-8")
    named = set(re.findall(r"fedstill_\w+", text))
    named |= {name.removesuffix("_bucket") for name in named}

    assert {metric.full_name for metric in CATALOGUE} - named == set()


def test_a_metric_that_nothing_shows_gets_a_panel_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(GRAFANA)
    add_missing = importlib.import_module("build").add_missing

    added = add_missing({"fleet": [], "node": []})
    shown = {query.full_expr for panels in added.values() for panel in panels for query in panel.queries}
    count = 'fedstill_grpc_call_seconds_count{instance=~"$instance"}'
    assert 'fedstill_temperature{instance=~"$instance"}' in shown
    assert 'fedstill_node_fp32_bytes{instance=~"$instance", node_id=~"$node"}' in shown
    assert any(expr.endswith(f" / rate({count}[$__rate_interval])") for expr in shown)

    again = add_missing(added)
    assert again == added


def test_provisioning_points_at_the_data_source_of_the_panels() -> None:
    source = (GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text(encoding="utf-8")
    [uid] = re.findall(r"uid: (\S+)", source)

    used = {panel["datasource"]["uid"] for name in NAMES for panel in load(name)["panels"]}
    assert used == {uid}
