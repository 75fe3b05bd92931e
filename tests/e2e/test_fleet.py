"""One federation of different devices: each node is planned for, within its budget, once for all of a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from fedstill.common.config import load_config
from fedstill.common.devices import load_profile
from fedstill.common.errors import RunError, UsageError
from fedstill.server.cli import run
from fedstill.server.run.events import Event, NodePlanned, RoundClosed
from fedstill.server.run.folder import load_run_config
from fedstill.server.run.state import FederationState, load_state
from fedstill.server.simulate import simulate

pytestmark = pytest.mark.xdist_group("fleet")  # what they share takes long to make

OVERRIDES = [
    "teacher.num_epochs=6",
    "teacher.num_threads=1",
    "distill.num_epochs=4",
    "federation.num_nodes=3",
    "federation.num_rounds=2",
    "federation.control_fraction=0.4",
    "student.plan=auto",
    "student.model=cnn-tiny",
    "exchange.codec=auto",
    "monitoring.quality_nodes=2",
]


def write_profile(folder: Path, name: str, **values: Any) -> str:
    text = (Path(__file__).resolve().parents[2] / "deploy" / "devices" / "pi-4.toml").read_text()
    lines = [
        f"{line.split(' = ')[0]} = {values[line.split(' = ')[0]]}" if line.split(" = ")[0] in values else line
        for line in text.splitlines()
    ]
    path = folder / f"{name}.toml"
    path.write_text("\n".join(lines).replace('name = "pi-4"', f'name = "{name}"'))
    return str(path)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    folder = tmp_path_factory.mktemp("fleet")
    small = write_profile(folder, "small", flash_bytes=7000, down_bytes_per_second=300.0)
    config = load_config(overrides=[*OVERRIDES, f"federation.profiles={small},phone"])
    events: list[Event] = []

    def stop_after_first_round(event: Event) -> None:
        events.append(event)
        if isinstance(event, RoundClosed):
            raise RunError("interrupted")

    run_dir = folder / "run"
    with pytest.raises(RunError, match="interrupted"):
        simulate(config, run_dir=run_dir, grid_name="local", observers=[stop_after_first_round])
    (folder / "first.json").write_bytes((run_dir / "checkpoints" / "state.json").read_bytes())
    settings = load_run_config(run_dir)
    simulate(settings, run_dir=run_dir, resume=True, grid_name="local", observers=[events.append])
    return run_dir, events


def read_nodes(run_dir: Path) -> dict[str, Any]:
    summary = json.loads((run_dir / "summary.json").read_text())
    return {node["node_id"]: node for node in summary["nodes"]}


def test_one_run_holds_different_students(fleet: tuple[Path, list[Event]]) -> None:
    nodes = read_nodes(fleet[0])
    devices = [nodes[name]["device"] for name in sorted(nodes)]
    assert [device["profile"] for device in devices] == ["small", "phone", "small"]
    assert devices[0]["plan"] == devices[2]["plan"] != devices[1]["plan"]
    assert all(node["accuracy"] > 0.5 for node in nodes.values())


def test_every_artefact_is_within_its_budget(fleet: tuple[Path, list[Event]]) -> None:
    for node in read_nodes(fleet[0]).values():
        files = (fleet[0] / node["artefact_path"]).iterdir()
        assert sum(path.stat().st_size for path in files) == node["artefact_bytes"]
        assert node["artefact_bytes"] <= node["device"]["flash_bytes"]
        assert node["device"]["latency_seconds"] <= 1.1 * node["device"]["latency_budget_seconds"]
        assert node["device"]["is_within_budget"]


def test_what_was_expected_of_an_artefact_is_what_it_takes(fleet: tuple[Path, list[Event]]) -> None:
    for node in read_nodes(fleet[0]).values():
        assert node["artefact_bytes"] == pytest.approx(node["device"]["expected_artefact_bytes"], rel=0.03)


def test_the_link_sets_the_codec(fleet: tuple[Path, list[Event]]) -> None:
    nodes = read_nodes(fleet[0])
    codecs = [nodes[name]["device"]["codec"] for name in sorted(nodes)]
    assert codecs[0] == codecs[2] == "hard"
    assert codecs[1] in ("lp8", "int4")


def test_decisions_stand_in_log_rounds_and_report(fleet: tuple[Path, list[Event]]) -> None:
    run_dir, events = fleet
    told = [event for event in events if isinstance(event, NodePlanned)]
    assert {event.node_id for event in told} == {"node-0000", "node-0001", "node-0002"}
    assert all("pilot accuracy" in event.plan_reason for event in told)
    assert {event.codec for event in told} > {""}
    log = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    assert {line["node"] for line in log if line["event"] == "node_planned"} == {
        event.node_id for event in told
    }
    rounds = [json.loads(line) for line in (run_dir / "rounds.jsonl").read_text().splitlines()]
    assert rounds[0]["nodes"][0]["plan"] == told[0].plan
    page = (run_dir / "report.html").read_text()
    assert "Devices" in page
    assert told[0].plan.replace("×", "×") in page


def test_a_resumed_run_goes_on_with_the_plans_of_its_first_life(fleet: tuple[Path, list[Event]]) -> None:
    run_dir, events = fleet
    first = FederationState.model_validate_json((run_dir.parent / "first.json").read_bytes())
    last = load_state(run_dir)
    assert (first.round, last.round, last.num_resumes) == (1, 2, 1)
    for name, node in last.nodes.items():
        before = first.nodes[name].plan
        assert node.plan is not None
        assert before is not None
        assert node.plan.model_dump(exclude={"num_rounds"}) == before.model_dump(exclude={"num_rounds"})
        assert (node.num_rounds, node.num_replans, node.num_state_resets) == (2, 0, 0)
    assert (
        len([event for event in events if isinstance(event, NodePlanned)]) == 6
    )  # student, codec; once each


def test_plan_command_names_student_codec_and_what_was_rejected(
    fleet: tuple[Path, list[Event]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = [argument for item in OVERRIDES for argument in ("--set", item)]
    monkeypatch.setattr(sys, "argv", ["fedstill", "plan", "--device", "phone", "--json", *sets])
    assert run() == 0
    found = json.loads(capsys.readouterr().out)
    assert found["chosen"]["artefact_bytes"] <= load_profile("phone").flash_bytes
    assert found["codec"] in ("lp8", "int4")
    assert len(found["rejected"]) >= 7  # four widths, in floats and in 8 bits
    assert all(entry["reason"] for entry in found["rejected"])


def test_plan_command_refuses_with_the_nearest_budget(
    fleet: tuple[Path, list[Event]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiny = write_profile(tmp_path, "tiny", flash_bytes=1024)
    sets = [argument for item in OVERRIDES for argument in ("--set", item)]
    monkeypatch.setattr(sys, "argv", ["fedstill", "plan", "--device", tiny, *sets])
    assert run() == 2
    output = capsys.readouterr()
    assert "would fit with flash_bytes = " in output.err
    assert "of 1.02 kB flash" in output.out


def test_a_federation_with_a_device_that_nothing_fits_is_refused(tmp_path: Path) -> None:
    tiny = write_profile(tmp_path, "tiny", flash_bytes=1024)
    config = load_config(overrides=[*OVERRIDES, f"federation.profiles=phone,{tiny}"])
    with pytest.raises(UsageError, match=r"device profile tiny: none of \d+ candidates fits"):
        simulate(config, run_dir=tmp_path / "run", grid_name="local")
