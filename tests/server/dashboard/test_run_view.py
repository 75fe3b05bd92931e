"""What the page is told of a run is what its folder says, whole at first and then as it changes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fleet_folder import FleetFolder
from fedstill.common.compressors import list_settings, make_plan
from fedstill.common.config import to_toml
from fedstill.server.dashboard.discovery import Brief, find_runs
from fedstill.server.dashboard.rounds import NODE_COLUMNS
from fedstill.server.dashboard.run_view import RunView
from fedstill.server.run.state import NodePlan, read_holders


def open_view(folder: Path) -> RunView:
    view = RunView(folder.name, folder)
    view.refresh()
    return view


def test_figures_of_a_finished_run_are_those_of_its_summary(runs_dir: Path) -> None:
    summary = json.loads((runs_dir / "small" / "summary.json").read_text())

    snapshot = open_view(runs_dir / "small").snapshot()

    assert snapshot["overview"]["status"] == "finished"
    assert snapshot["overview"]["fleet"] == summary["fleet"]
    assert snapshot["overview"]["teacher"] == summary["teacher"]
    for row, node in zip(snapshot["nodes"], summary["nodes"], strict=True):
        shown = dict(zip(NODE_COLUMNS, row, strict=True))
        for name in ("node_id", "family", "artefact_bytes", "bytes_down", "bytes_up", "num_rounds"):
            assert shown[name] == node[name]
        for name in ("accuracy", "fp32_accuracy", "local_accuracy", "private_accuracy"):
            assert shown[name] == pytest.approx(node[name], abs=1e-5)


def test_rounds_are_summed_from_their_nodes(runs_dir: Path) -> None:
    line = json.loads((runs_dir / "small" / "rounds.jsonl").read_text().splitlines()[1])

    found = open_view(runs_dir / "small").snapshot()["rounds"][1]

    accuracies = [node["accuracy"] for node in line["nodes"]]
    assert found["round"] == 2
    assert [found["p5"], found["p95"]] == pytest.approx(np.percentile(accuracies, [5, 95]).tolist(), abs=1e-5)
    assert found["worst"] == pytest.approx(min(accuracies), abs=1e-5)
    assert found["bytes_up"] == sum(node["bytes_up"] for node in line["nodes"])
    assert found["fedavg_bytes"] == 2 * sum(node["fp32_bytes"] for node in line["nodes"])


def test_a_run_that_died_is_stopped_and_its_losses_are_counted(runs_dir: Path) -> None:
    view = open_view(runs_dir / "died")

    snapshot = view.snapshot()

    drops = dict(
        zip([row[0] for row in snapshot["nodes"]], [row[-4] for row in snapshot["nodes"]], strict=True)
    )
    assert NODE_COLUMNS[-4] == "num_drops"
    assert snapshot["overview"]["status"] == "stopped"
    assert sum(drops.values()) == sum(entry["num_dropped"] for entry in snapshot["rounds"]) > 0
    unlucky = max(drops, key=lambda node_id: drops[node_id])
    described = view.describe_node(unlucky)
    assert described is not None
    assert [event["event"] for event in described["events"]] == ["reply_dropped"] * drops[unlucky]


def test_a_live_run_tells_only_what_changed(tmp_path: Path) -> None:
    with FleetFolder(tmp_path / "live", num_nodes=6, num_rounds=5, fail_ratio=0.0) as fleet:
        fleet.close_round()
        view = open_view(tmp_path / "live")
        assert view.snapshot()["overview"]["status"] == "live"

        fleet.start_round(num_answered=4)
        begun = view.refresh()
        fleet.close_round()
        closed = view.refresh()

    assert "rounds" not in begun
    assert "nodes" not in begun
    assert begun["overview"]["phase"]["phase"] == "round"
    assert begun["metrics"]["values"]["round_answered_nodes"] == [[{}, 4.0]]
    assert [entry["round"] for entry in closed["rounds"]] == [2]
    assert len(closed["nodes"]) == 6
    assert {event["event"] for event in closed["events"]} == {"phase_started", "round_closed", "phase_ended"}


def test_changes_put_together_give_the_snapshot(tmp_path: Path) -> None:
    with FleetFolder(tmp_path / "live", num_nodes=6, num_rounds=3, fail_ratio=0.3) as fleet:
        view = RunView("live", tmp_path / "live")
        rounds, nodes = [], {}
        for _ in range(3):
            fleet.close_round()
            change = view.refresh()
            rounds += change["rounds"]
            nodes |= {row[0]: row for row in change["nodes"]}
        fleet.finish()
        nodes |= {row[0]: row for row in view.refresh()["nodes"]}

    snapshot = view.snapshot()
    assert rounds == snapshot["rounds"]
    assert sorted(nodes.values()) == snapshot["nodes"]


def test_half_a_line_is_left_for_later(tmp_path: Path, runs_dir: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    text = (runs_dir / "died" / "rounds.jsonl").read_text()
    (folder / "config.toml").write_text((runs_dir / "died" / "config.toml").read_text())
    (folder / "rounds.jsonl").write_text(text[:-100])
    view = open_view(folder)
    before = len(view.snapshot()["rounds"])

    (folder / "rounds.jsonl").write_text(text)
    view.refresh()

    assert (before, len(view.snapshot()["rounds"])) == (2, 3)


def test_a_file_that_begins_anew_lets_the_page_begin_anew(tmp_path: Path, runs_dir: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("config.toml", "rounds.jsonl", "log.jsonl"):
        (folder / name).write_text((runs_dir / "died" / name).read_text())
    view = open_view(folder)

    first = (folder / "rounds.jsonl").read_text().splitlines(keepends=True)[0]
    (folder / "rounds.jsonl").write_text(first)

    assert view.refresh()["anew"]
    assert len(view.snapshot()["rounds"]) == 1


def test_figures_that_are_no_numbers_are_null(tmp_path: Path, runs_dir: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.toml").write_text((runs_dir / "died" / "config.toml").read_text())
    (folder / "rounds.jsonl").write_text(
        '{"round": 1, "nodes": [{"node_id": "a", "accuracy": NaN}]}\nnonsense\n[1]\n'
    )

    snapshot = open_view(folder).snapshot()

    assert json.loads(json.dumps(snapshot, allow_nan=False))["nodes"][0][3] is None


def test_runs_are_found_in_folders_below_and_links_are_not_followed(tmp_path: Path, runs_dir: Path) -> None:
    (tmp_path / "elsewhere").symlink_to(runs_dir)
    below = tmp_path / "comparison" / "teacher-0"
    below.mkdir(parents=True)
    for name in ("config.toml", "summary.json"):
        (below / name).write_text((runs_dir / "small" / name).read_text())

    assert find_runs(tmp_path) == {"comparison/teacher-0": below}
    assert list(find_runs(runs_dir)) == ["died", "large", "small"]
    assert list(find_runs(runs_dir / "small")) == ["small"]


def test_the_list_of_runs_tells_how_each_is_doing(tmp_path: Path, runs_dir: Path) -> None:
    with FleetFolder(tmp_path / "live", num_nodes=6, num_rounds=5) as fleet:
        brief = Brief(tmp_path / "live")
        fleet.close_round()
        alive = brief.refresh(read_holders())
    dead = brief.refresh(read_holders())

    assert (alive["status"], alive["round"], alive["num_nodes"]) == ("live", 1, 6)
    assert (dead["status"], dead["accuracy"]) == ("stopped", alive["accuracy"])
    done = Brief(runs_dir / "small").refresh(set())
    assert (done["status"], done["round"], done["stopped_because"]) == (
        "finished",
        4,
        "the last round is over",
    )


def test_the_command_that_goes_on_is_that_of_who_began_the_run(tmp_path: Path) -> None:
    home = tmp_path / "my home"
    with FleetFolder(home / "runs" / "field", num_nodes=1, num_rounds=2) as fleet:
        fleet.close_round()
    view = open_view(home / "runs" / "field")
    alone = view.snapshot()["overview"]["resume_command"]
    (home / "superlink.db").touch()
    deployed = view.snapshot()["overview"]["resume_command"]

    assert shlex.split(alone) == ["fedstill", "simulate", "--resume", str(home / "runs" / "field")]
    assert shlex.split(deployed) == ["fedstill", "coordinator", "--home", str(home), "--run-id", "field"]


def test_a_node_with_a_plan_of_its_own_shows_that(tmp_path: Path) -> None:
    with FleetFolder(tmp_path / "run", num_nodes=1, num_rounds=2) as fleet:
        compression = make_plan(steps="quantise", bits=4, group_size=16)
        fleet.state.nodes["node-0000"].plan = NodePlan(
            model="cnn-tiny",
            width=1.0,
            compression=compression,
            name="cnn-tiny, 4 bits",
            reason="",
            accuracy=None,
            artefact_bytes=1,
            latency_seconds=1.0,
        )
        config = fleet.config.model_copy(
            update={"student": fleet.config.student.model_copy(update={"plan": "auto"})}
        )
        (tmp_path / "run" / "config.toml").write_text(to_toml(config))
        fleet.close_round()
    described = open_view(tmp_path / "run").describe_node("node-0000")

    assert described is not None
    assert described["compress"] == list_settings(compression)
    assert described["compress"]["group_size"] == 16
