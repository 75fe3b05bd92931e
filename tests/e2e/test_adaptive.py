"""What nodes chose stands in summary, report and metrics; schemes without soft labels choose nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fedstill.common.config import load_config
from fedstill.server.run.summary import Summary
from fedstill.server.simulate import simulate

OVERRIDES = (
    "distill.mode=auto",
    "teacher.num_epochs=10",
    "teacher.num_threads=1",
    "distill.num_epochs=4",
    "federation.num_nodes=5",
    "federation.num_rounds=2",
    "federation.partitioner=shards",
    "federation.labels_per_node=1",
    "federation.control_fraction=0.0",
    "data.num_public=400",
    "monitoring.quality_nodes=0",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    run_dir = tmp_path_factory.mktemp("adaptive") / "run"
    return run_dir, simulate(load_config(overrides=OVERRIDES), run_dir=run_dir, grid_name="local")


def test_every_node_says_what_it_chose_in_each_round_and_why(run: tuple[Path, Summary]) -> None:
    for node in run[1].nodes:
        assert [choice.round for choice in node.choices] == [1, 2]
        assert all(choice.why and 0 < choice.public_share <= 1 for choice in node.choices)
        assert all(choice.num_trial_steps > 0 for choice in node.choices)


def test_a_skewed_node_moves_towards_its_own_classes(run: tuple[Path, Summary]) -> None:
    assert min(choice.public_share for node in run[1].nodes for choice in node.choices) < 1


def test_rounds_hold_the_choices_too(run: tuple[Path, Summary]) -> None:
    run_dir, summary = run
    first = json.loads((run_dir / "rounds.jsonl").read_text().splitlines()[0])
    chosen = {report["node_id"]: report["choice"]["temperature"] for report in first["nodes"]}
    assert chosen == {node.node_id: node.choices[0].temperature for node in summary.nodes}


def test_the_report_shows_a_row_for_each_choice(run: tuple[Path, Summary]) -> None:
    page = (run[0] / "report.html").read_text(encoding="utf-8")
    table = page.split("<table class=choices>")[1].split("</table>")[0]
    assert len(re.findall("<tr><td>", table)) == 10
    assert "alone" in table


def test_metrics_show_the_mean_of_what_was_chosen(run: tuple[Path, Summary]) -> None:
    run_dir, summary = run
    last = [node.choices[-1] for node in summary.nodes]
    values = dict(re.findall(r"^(fedstill_\w+) (\S+)$", (run_dir / "metrics.txt").read_text(), re.MULTILINE))
    mean = sum(choice.temperature for choice in last) / len(last)
    assert float(values["fedstill_temperature"]) == pytest.approx(mean)
    mean = sum(choice.distill_lambda for choice in last) / len(last)
    assert float(values["fedstill_lambda_ratio"]) == pytest.approx(mean)


def test_the_scheme_local_has_nothing_to_choose(tmp_path: Path) -> None:
    overrides = [*OVERRIDES, "federation.scheme=local", "federation.num_rounds=1", "distill.num_epochs=1"]
    summary = simulate(load_config(overrides=overrides), run_dir=tmp_path / "run", grid_name="local")
    assert all(not node.choices for node in summary.nodes)
