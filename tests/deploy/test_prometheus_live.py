"""A real Prometheus scrapes a real run; every expression of every panel and rule is executed there."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedstill.common.config import load_config
from fedstill.server.run.events import Event, RunFinished
from fedstill.server.simulate import simulate

pytestmark = pytest.mark.xdist_group("prometheus")  # what they share takes long to make

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"

# Expressions that a sound run of virtual nodes answers with nothing, and why.
EMPTY_BECAUSE = {
    "fedstill_nodes_rested_total": "a node rests only after it has failed",
    "fedstill_actor": "only RayGrid has actors; this run is on LocalGrid",
    "fedstill_node_budget": "virtual nodes have no device and so no budget",
    "fedstill_privacy_epsilon": "the run spends no privacy budget",
    "fedstill_certificate_expiry": "a run on one machine has no certificates",
}


@pytest.fixture(scope="module")
def live(prometheus: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Prometheus beside a run that is done and waits to be let go."""
    finished, released = threading.Event(), threading.Event()

    def hold(event: Event) -> None:
        if isinstance(event, RunFinished):
            finished.set()
            released.wait(60)

    config = load_config(
        overrides=[
            "teacher.num_epochs=2",
            "teacher.num_threads=1",
            "distill.num_epochs=1",
            "federation.num_nodes=2",
            "federation.num_rounds=2",
            "federation.scheme=co-teaching",
            f"monitoring.targets_dir={prometheus.targets_dir}",
        ]
    )
    run_dir = tmp_path_factory.mktemp("run") / "run"
    thread = threading.Thread(
        target=simulate,
        args=(config,),
        kwargs={"run_dir": run_dir, "grid_name": "local", "observers": [hold]},
    )
    thread.start()
    try:
        assert finished.wait(240), "the run did not finish"
        # A rate takes two scrapes, and a recording rule an evaluation after them.
        assert prometheus.wait_for("fedstill:node_private_accuracy_ratio:mean")
        time.sleep(3)
        yield prometheus
    finally:
        released.set()
        thread.join(60)


def panel_expressions() -> list[str]:
    found = []
    for path in sorted((DEPLOY / "grafana" / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            found += [target["expr"] for target in panel["targets"]]
    return found


def rule_expressions() -> list[str]:
    text = (DEPLOY / "prometheus" / "rules.yml").read_text(encoding="utf-8")
    blocks = re.findall(r"expr: (?:>-\n((?: {10}.*\n)+)|(.*)\n)", text)
    return [" ".join((block or line).split()) for block, line in blocks]


def test_every_expression_of_panels_and_recording_rules_returns_data(live: Any) -> None:
    expressions = panel_expressions() + rule_expressions()
    silent = []
    for expr in expressions:
        filled = expr.replace("$__rate_interval", "1m").replace("$__range", "5m")
        filled = filled.replace("$instance", ".+").replace("$node", ".+")
        if not live.query(filled) and not any(name in expr for name in EMPTY_BECAUSE):
            silent.append(expr)

    assert len(expressions) > 50
    assert silent == []


def test_what_is_listed_as_empty_is_empty(live: Any) -> None:
    for name in EMPTY_BECAUSE:
        assert live.query(f'{{__name__=~"{name}.*"}} >= 0') == []


def test_alert_rules_are_sound_and_none_fires_on_a_sound_run(live: Any) -> None:
    rules = [rule for group in live.get("rules")["groups"] for rule in group["rules"]]

    assert len(rules) == 16
    assert {rule["name"]: rule["health"] for rule in rules if rule["health"] != "ok"} == {}
    firing = [alert["labels"]["alertname"] for alert in live.get("alerts")["alerts"]]
    assert firing == [] or firing == ["DiskLow"]  # this machine's own disk may be low


def test_every_series_names_its_run(live: Any) -> None:
    assert live.query('count({__name__=~"fedstill_.*", run_id=""})') == []
    assert live.query('count({__name__=~"fedstill_.*", run_id!=""})')


def test_both_pages_are_scraped(live: Any) -> None:
    up = {series["metric"]["job"]: series["value"][1] for series in live.query("up")}

    assert up == {"fedstill": "1", "fedstill-nodes": "1"}
