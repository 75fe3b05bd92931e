"""A whole federation in one process: its run folder keeps every contract."""

from __future__ import annotations

import csv
import json
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from fedstill.common.config import Config, load_config
from fedstill.common.datasets import load_dataset
from fedstill.common.errors import UsageError
from fedstill.server.run.folder import open_run
from fedstill.server.run.state import load_state
from fedstill.server.run.summary import SCHEMA_PATH, Summary
from fedstill.server.simulate import simulate

ROOT = Path(__file__).resolve().parents[2]
TIMINGS = {"seconds", "phase_seconds", "wire_bytes"}


def comparable_rounds(run_dir: Path) -> list[Any]:
    """`rounds.jsonl` without timings and cache counters."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(inner) for key, inner in value.items() if key not in TIMINGS}
        return [strip(inner) for inner in value] if isinstance(value, list) else value

    return [strip(json.loads(line)) for line in (run_dir / "rounds.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(quick_config: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    return run_dir, simulate(quick_config, run_dir=run_dir, grid_name="local")


def test_summary_fits_its_schema(finished: tuple[Path, Summary]) -> None:
    document = json.loads((finished[0] / "summary.json").read_text())
    jsonschema.validate(document, json.loads(SCHEMA_PATH.read_text()))
    assert document["schema"] == 1


def test_every_line_of_the_log_names_its_run_round_and_node(finished: tuple[Path, Summary]) -> None:
    lines = [json.loads(line) for line in (finished[0] / "log.jsonl").read_text().splitlines()]
    assert all({"time", "level", "event", "run", "round", "node"} <= line.keys() for line in lines)
    assert {line["run"] for line in lines} == {finished[1].run_id}
    reported = [(line["round"], line["node"]) for line in lines if line["event"] == "node_reported"]
    assert reported == [(number, f"node-{index:04d}") for number in (1, 2) for index in range(4)]
    closed = [line["round"] for line in lines if line["event"] == "round_closed"]
    assert closed == [1, 2]


def test_summary_tells_the_versions_that_figures_depend_on(finished: tuple[Path, Summary]) -> None:
    assert finished[1].versions["torch"] == metadata.version("torch")
    assert finished[1].versions["python"] == platform.python_version()


def test_run_folder_holds_what_the_contract_lists(finished: tuple[Path, Summary]) -> None:
    names = {path.name for path in finished[0].iterdir()}
    assert names >= {
        "config.toml",
        "summary.json",
        "rounds.jsonl",
        "report.html",
        "teacher.safetensors",
        "labels",
        "nodes",
        "checkpoints",
    }
    for node in finished[1].nodes:
        folder = finished[0] / "nodes" / node.node_id
        assert {path.name for path in folder.iterdir()} == {
            "student.safetensors",
            "predictions.npy",
            "artefact",
        }


def test_no_half_written_file_is_left(finished: tuple[Path, Summary]) -> None:
    hidden = [path for path in finished[0].rglob(".*") if path.is_file()]
    assert not hidden


def test_students_learn_far_beyond_chance(finished: tuple[Path, Summary]) -> None:
    assert finished[1].teacher is not None
    assert finished[1].teacher.accuracy > 0.7
    assert (finished[1].fleet.accuracy_mean or 0) > 0.5


def test_every_accuracy_can_be_counted_again_from_predictions(
    finished: tuple[Path, Summary], quick_config: Config
) -> None:
    truth = load_dataset(quick_config.data, seed=quick_config.seed).y_test
    for node in finished[1].nodes:
        table = np.load(finished[0] / "nodes" / node.node_id / "predictions.npy", allow_pickle=False)
        assert node.accuracy == pytest.approx(float(np.mean(table["class"] == truth)))
        assert node.fp32_accuracy == pytest.approx(float(np.mean(table["fp32_class"] == truth)))


def test_agreement_is_with_the_stored_teacher_predictions(finished: tuple[Path, Summary]) -> None:
    teacher = np.load(finished[0] / "teacher_predictions.npy", allow_pickle=False)
    node = finished[1].nodes[0]
    table = np.load(finished[0] / "nodes" / node.node_id / "predictions.npy", allow_pickle=False)
    assert node.agreement_ratio == pytest.approx(float(np.mean(table["class"] == teacher)))


def test_artefact_bytes_are_those_on_disk(finished: tuple[Path, Summary]) -> None:
    for node in finished[1].nodes:
        assert node.artefact_path is not None
        files = (finished[0] / node.artefact_path).iterdir()
        assert node.artefact_bytes == sum(path.stat().st_size for path in files)


def test_artefact_is_an_order_smaller_than_the_teacher(finished: tuple[Path, Summary]) -> None:
    assert finished[1].teacher is not None
    assert (finished[1].fleet.artefact_bytes_mean or 0) * 25 <= finished[1].teacher.size_bytes


def test_manifest_says_what_the_device_needs_and_how_good_it_is(finished: tuple[Path, Summary]) -> None:
    node = finished[1].nodes[0]
    manifest = json.loads((finished[0] / str(node.artefact_path) / "manifest.json").read_text())
    assert manifest["input"] == {"task": "image", "shape": [8, 8], "dtype": "uint8", "layout": "HW"}
    assert manifest["classes"] == [str(digit) for digit in range(10)]
    assert manifest["accuracy"] == {"value": node.accuracy, "n": finished[1].eval_set["num_samples"]}
    assert manifest["private_accuracy"]["n"] == node.num_private_test
    assert manifest["digest"] == node.artefact_digest


def test_controls_and_latencies_stand_beside_every_node(finished: tuple[Path, Summary]) -> None:
    for node in finished[1].nodes:
        assert node.local_accuracy is not None
        assert node.latency_seconds_batch1 is not None
        assert node.teacher_latency_seconds_batch1 is not None


def test_labels_are_counted_once_per_node_and_public_samples_apart(finished: tuple[Path, Summary]) -> None:
    first, second = (
        json.loads(line)["nodes"] for line in (finished[0] / "rounds.jsonl").read_text().splitlines()
    )
    assert all(a["bytes_down"] > b["bytes_down"] for a, b in zip(first, second, strict=True))
    num_public = 575
    assert all(line["public_sample_bytes"] > num_public * 64 for line in first)
    assert all(line["public_sample_bytes"] == 0 for line in second)
    # lp8 is one byte per class; the rest is manifest and task.
    assert all(num_public * 10 < line["bytes_down"] < num_public * 10 + 2000 for line in first)


def test_fedavg_bytes_are_two_models_per_reply(finished: tuple[Path, Summary]) -> None:
    summary = finished[1]
    assert summary.fleet.fedavg_bytes == sum(2 * node.fp32_bytes * node.num_rounds for node in summary.nodes)


def test_node_store_is_released_after_the_run(finished: tuple[Path, Summary], own_home: Path) -> None:
    assert not (own_home / "nodes" / finished[1].run_id).exists()


def test_same_seed_gives_the_same_rounds_and_artefacts(
    finished: tuple[Path, Summary], quick_config: Config, tmp_path: Path
) -> None:
    again = simulate(quick_config, run_dir=tmp_path / "again", grid_name="local")
    assert comparable_rounds(tmp_path / "again") == comparable_rounds(finished[0])
    assert [node.artefact_digest for node in again.nodes] == [
        node.artefact_digest for node in finished[1].nodes
    ]
    for first, second in zip(finished[1].nodes, again.nodes, strict=True):
        assert _read_files(finished[0] / str(first.artefact_path)) == _read_files(
            tmp_path / "again" / str(second.artefact_path)
        )
        assert first.artefact_bytes == second.artefact_bytes


def _read_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_another_seed_gives_other_students(
    finished: tuple[Path, Summary], quick_config: Config, tmp_path: Path
) -> None:
    other = quick_config.model_copy(update={"seed": 1})
    summary = simulate(other, run_dir=tmp_path / "other", grid_name="local")
    mine = {node.student_digest for node in finished[1].nodes}
    assert not mine & {node.student_digest for node in summary.nodes}


def test_resolved_configuration_runs_again(finished: tuple[Path, Summary], quick_config: Config) -> None:
    assert load_config(finished[0] / "config.toml") == quick_config


def test_interrupted_run_resumes_to_the_identical_ending_without_asking_the_teacher_again(
    finished: tuple[Path, Summary], quick_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PulledPlugError(Exception):
        pass

    def pull_the_plug(event: object) -> None:
        if type(event).__name__ == "RoundClosed":
            raise PulledPlugError

    run_dir = tmp_path / "resumed"
    with pytest.raises(PulledPlugError):
        simulate(quick_config, run_dir=run_dir, grid_name="local", observers=[pull_the_plug])
    assert load_state(run_dir).round == 1
    monkeypatch.setattr("fedstill.server.federation.preparation.label_samples", None)
    resumed = simulate(quick_config, run_dir=run_dir, grid_name="local", resume=True)
    assert resumed.num_resumes == 1
    assert comparable_rounds(run_dir) == comparable_rounds(finished[0])
    assert [node.student_digest for node in resumed.nodes] == [
        node.student_digest for node in finished[1].nodes
    ]
    assert resumed.fleet.bytes_down == finished[1].fleet.bytes_down
    assert resumed.teacher
    assert finished[1].teacher
    assert resumed.teacher.accuracy == finished[1].teacher.accuracy


def test_node_that_lost_its_disk_is_reset_and_counted(
    quick_config: Config, tmp_path: Path, own_home: Path
) -> None:
    import shutil

    def lose_a_disk(event: object) -> None:
        if type(event).__name__ == "RoundClosed" and event.round == 1:  # type: ignore[attr-defined]
            run_id = load_state(tmp_path / "lost").run_id
            shutil.rmtree(own_home / "nodes" / run_id / "node-0002")

    summary = simulate(quick_config, run_dir=tmp_path / "lost", grid_name="local", observers=[lose_a_disk])
    assert [node.num_state_resets for node in summary.nodes] == [0, 0, 1, 0]


def test_local_scheme_exchanges_nothing(quick_config: Config, tmp_path: Path) -> None:
    federation = quick_config.federation.model_copy(update={"scheme": "local", "num_rounds": 1})
    config = quick_config.model_copy(update={"federation": federation})
    summary = simulate(config, run_dir=tmp_path / "local", grid_name="local")
    assert summary.teacher is None
    assert summary.fleet.public_sample_bytes == 0
    assert summary.fleet.local_accuracy_mean == summary.fleet.accuracy_mean
    assert all(node.agreement_ratio is None for node in summary.nodes)


def test_local_public_samples_move_no_bytes_and_give_the_same_students(
    finished: tuple[Path, Summary], quick_config: Config, tmp_path: Path
) -> None:
    exchange = quick_config.exchange.model_copy(update={"public_samples": "local"})
    config = quick_config.model_copy(update={"exchange": exchange})
    summary = simulate(config, run_dir=tmp_path / "at-home", grid_name="local")
    assert summary.fleet.public_sample_bytes == 0
    assert [node.student_digest for node in summary.nodes] == [
        node.student_digest for node in finished[1].nodes
    ]


def test_nodes_of_one_run_may_have_different_students(tmp_path: Path, quick_config: Config) -> None:
    config = quick_config.model_copy(
        update={
            "student": quick_config.student.model_copy(update={"model": "cnn-tiny,mlp-small"}),
            "compress": quick_config.compress.model_copy(update={"bits": 32}),
            "federation": quick_config.federation.model_copy(
                update={"num_rounds": 1, "control_fraction": 0.0}
            ),
        }
    )
    summary = simulate(config, run_dir=tmp_path / "mixed", grid_name="local")
    assert [node.family for node in summary.nodes] == ["cnn-tiny", "mlp-small"] * 2
    assert all(node.accuracy == node.fp32_accuracy for node in summary.nodes)
    assert all(node.local_accuracy is None for node in summary.nodes)


def test_folder_that_holds_a_run_is_not_overwritten(
    finished: tuple[Path, Summary], quick_config: Config
) -> None:
    with pytest.raises(UsageError, match="--resume"):
        open_run(quick_config, run_dir=finished[0], resume=False).__enter__()


def test_teacher_that_never_converges_is_warned_of(quick_config: Config, tmp_path: Path) -> None:
    warnings: list[str] = []

    def listen(event: object) -> None:
        if type(event).__name__ == "Warned":
            warnings.append(event.text)  # type: ignore[attr-defined]

    config = quick_config.model_copy(
        update={
            "teacher": quick_config.teacher.model_copy(update={"num_epochs": 1, "learning_rate": 1e-8}),
            "federation": quick_config.federation.model_copy(
                update={"num_rounds": 1, "control_fraction": 0.0}
            ),
        }
    )
    simulate(config, run_dir=tmp_path / "dull", grid_name="local", observers=[listen])
    assert any("below teacher.min_accuracy" in text for text in warnings)


def test_predict_needs_no_torch_and_agrees_with_the_run(
    finished: tuple[Path, Summary], tmp_path: Path
) -> None:
    node = finished[1].nodes[0]
    output = tmp_path / "predictions.csv"
    code = (
        "import sys\n"
        "for name in ('torch', 'flwr', 'grpc', 'ray', 'onnx', 'server'):\n    sys.modules[name] = None\n"
        "from fedstill.clients.cli import main\nmain()\n"
    )
    arguments = ["predict", str(finished[0] / str(node.artefact_path)), "digits", "--output", str(output)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with output.open() as file:
        predicted = [int(row["prediction"]) for row in csv.DictReader(file)]
    table = np.load(finished[0] / "nodes" / node.node_id / "predictions.npy", allow_pickle=False)
    assert predicted == table["class"].tolist()
