"""Every scheme runs end to end and exchanges what it says."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedstill.clients import tasks
from fedstill.clients.schemes import Lesson, Outcome, Rows, classwise
from fedstill.common.config import Config, load_config
from fedstill.common.errors import ConfigError
from fedstill.server.run.summary import Summary
from fedstill.server.schemes import SCHEMES
from fedstill.server.simulate import simulate

pytestmark = pytest.mark.xdist_group("schemes")  # what they share takes long to make

OVERRIDES = (
    "teacher.num_epochs=12",
    "teacher.num_threads=1",
    "distill.num_epochs=3",
    "federation.num_nodes=3",
    "federation.num_rounds=3",
    "federation.control_fraction=0.0",
    "data.num_public=300",
)


# Nodes that say how many samples of each class they have.
COUNTING = {"co-teaching": ("federation.aggregator=class_count",)}


def scheme_config(name: str, *more: str) -> Config:
    return load_config(overrides=[*OVERRIDES, f"federation.scheme={name}", *COUNTING.get(name, ()), *more])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Summary]]:
    finished = {}
    for name in SCHEMES:
        run_dir = tmp_path_factory.mktemp("schemes") / name
        finished[name] = (run_dir, simulate(scheme_config(name), run_dir=run_dir, grid_name="local"))
    return finished


def rounds(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "rounds.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", SCHEMES)
def test_scheme_ends_with_an_artefact_on_every_node(name: str, runs: dict[str, tuple[Path, Summary]]) -> None:
    run_dir, summary = runs[name]
    assert len(summary.rounds) == 3 + (name == "weights")
    assert all((run_dir / str(node.artefact_path) / "model.onnx").exists() for node in summary.nodes)


@pytest.mark.parametrize("name", [name for name, scheme in SCHEMES.items() if scheme.conclude])
def test_two_way_schemes_send_in_every_round_but_the_last(
    name: str, runs: dict[str, tuple[Path, Summary]]
) -> None:
    up = [[node["bytes_up"] for node in line["nodes"]] for line in rounds(runs[name][0])]
    assert all(first > last + 200 for first, last in zip(up[0], up[-1], strict=True))


@pytest.mark.parametrize("name", ["teacher", "local"])
def test_one_way_schemes_send_reports_only(name: str, runs: dict[str, tuple[Path, Summary]]) -> None:
    assert all(node["bytes_up"] < 500 for line in rounds(runs[name][0]) for node in line["nodes"])


def test_ensemble_publishes_new_labels_each_round(runs: dict[str, tuple[Path, Summary]]) -> None:
    down = [line["nodes"][0]["bytes_down"] for line in rounds(runs["ensemble"][0])]
    assert down[0] < 1000  # nothing to learn from yet
    assert min(down[1:]) > 300 * 10


def test_classwise_moves_two_c_squared_logits_per_round(runs: dict[str, tuple[Path, Summary]]) -> None:
    middle = rounds(runs["classwise"][0])[1]["nodes"][0]
    floats = 10 * 10 * 4
    overhead = 1500  # task, report, manifests
    assert floats < middle["bytes_up"] < floats + overhead
    assert floats < middle["bytes_down"] < floats + overhead


def test_classwise_takes_out_only_what_is_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = threading.local()
    uploads: dict[tuple[int, str], Rows] = {}
    targets: dict[tuple[int, str], Rows] = {}
    make_study, finish, leave_one_out = tasks.make_study, tasks.finish, classwise.leave_one_out

    def note_key(node: Any, task: Any, lesson: Lesson) -> Any:
        here.key = (task.round, node.private.node_id)
        return make_study(node, task, lesson)

    def note_upload(assignment: Any, outcome: Outcome) -> Any:
        if outcome.upload is not None:
            uploads[here.key] = outcome.upload
        return finish(assignment, outcome)

    def note_targets(shared: Rows, own: Rows | None, *, weight: float) -> Rows:
        targets[here.key] = leave_one_out(shared, own, weight=weight)
        return targets[here.key]

    monkeypatch.setattr(tasks, "make_study", note_key)
    monkeypatch.setattr(tasks, "finish", note_upload)
    monkeypatch.setattr(classwise, "leave_one_out", note_targets)
    sampled = ("federation.num_nodes=4", "federation.sample_fraction=0.5", "federation.num_rounds=6")
    one_by_one = ("federation.cohort=off", "distill.num_epochs=1", "teacher.num_epochs=1")
    config = scheme_config("classwise", *sampled, *one_by_one)
    simulate(config, run_dir=tmp_path / "run", grid_name="local")

    asked = {number: {node for at, node in uploads if at == number} for number in range(1, 6)}
    # A node that came back after a round without it: it has sent rows, and they are not inside.
    assert any(
        node not in asked[number - 1] and any(node in asked[at] for at in range(1, number - 1))
        for number, node in targets
    )
    for (number, node), target in targets.items():
        others = [uploads[number - 1, other] for other in sorted(asked[number - 1] - {node})]
        known = np.array([rows.counts_R > 0 for rows in others])
        totals = sum(rows.values * (rows.counts_R > 0)[:, None] for rows in others)
        np.testing.assert_array_equal(target.counts_R, known.sum(axis=0))
        expected = totals / np.maximum(target.counts_R, 1)[:, None]
        np.testing.assert_allclose(target.values, expected, atol=1e-4)


def test_classwise_arrays_hold_two_c_squared_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[int] = []
    finish = tasks.finish

    def note_sizes(assignment: Any, outcome: Outcome) -> Any:
        if assignment.lesson.shared is not None and outcome.upload is not None:
            moved.append(assignment.lesson.shared.values.size + outcome.upload.values.size)
        return finish(assignment, outcome)

    monkeypatch.setattr(tasks, "finish", note_sizes)
    config = scheme_config("classwise", "distill.num_epochs=1", "teacher.num_epochs=1")
    simulate(config, run_dir=tmp_path / "run", grid_name="local")
    assert moved == [2 * 10**2] * 3  # three nodes in the one round that both fetches and sends


def test_schemes_without_public_set_move_no_public_samples(runs: dict[str, tuple[Path, Summary]]) -> None:
    for name, scheme in SCHEMES.items():
        assert (runs[name][1].fleet.public_sample_bytes > 0) == scheme.uses_public


def test_weights_evaluates_one_model_everywhere(runs: dict[str, tuple[Path, Summary]]) -> None:
    digests = {node["student_digest"] for node in rounds(runs["weights"][0])[-1]["nodes"]}
    assert len(digests) == 1


def test_weights_moves_the_bytes_that_fedavg_is_reckoned_with(runs: dict[str, tuple[Path, Summary]]) -> None:
    summary = runs["weights"][1]
    # The summary reckons two models per reply of a round that learned.
    measured = summary.fleet.bytes_down + summary.fleet.bytes_up
    assert measured == pytest.approx(summary.fleet.fedavg_bytes, rel=0.2)


def test_weights_learns_as_often_as_other_schemes_and_so_does_its_control(
    runs: dict[str, tuple[Path, Summary]],
) -> None:
    num_learned = {
        name: sum(
            any(node["private_loss"] is not None for node in line["nodes"]) for line in rounds(runs[name][0])
        )
        for name in ("weights", "classwise")
    }
    assert num_learned == {"weights": 3, "classwise": 3}
    assert len(rounds(runs["weights"][0])) == 4  # the last takes the third average over
    controls = [[node.local_accuracy for node in runs[name][1].nodes] for name in ("weights", "classwise")]
    assert controls[0] == controls[1]


def test_local_epochs_give_each_node_the_steps_of_its_own_samples(tmp_path: Path) -> None:
    changes = (
        "federation.local_epochs=2",
        "federation.num_rounds=2",
        "distill.batch_size=16",
        "teacher.num_epochs=1",
    )
    plain = ("distill.optimiser=sgd", "distill.learning_rate=0.1", "distill.schedule=constant")
    steps = {}
    for name, batch_size in (("weights", 16), ("teacher", 8)):
        summary = simulate(scheme_config(name, *changes, *plain), run_dir=tmp_path / name, grid_name="local")
        sizes = {node.node_id: node.num_train_samples for node in summary.nodes}
        steps[name] = [
            (node["num_steps"], 2 * -(-sizes[node["node_id"]] // batch_size))
            for line in rounds(tmp_path / name)[:2]
            for node in line["nodes"]
        ]
        assert all(made == expected for made, expected in steps[name])
    assert len({made for made, _ in steps["weights"]}) > 1


def test_co_teaching_never_keeps_a_teacher_that_fell(runs: dict[str, tuple[Path, Summary]]) -> None:
    run_dir, summary = runs["co-teaching"]
    assert summary.teacher is not None
    noted = [line["scheme"] for line in rounds(run_dir) if line.get("scheme")]
    assert noted
    for note in noted:
        assert note["refined_kept"] == (note["refined_accuracy"] >= note["accuracy_before"])


@pytest.mark.parametrize("name", ["ensemble", "co-teaching", "classwise", "weights"])
def test_interrupted_two_way_run_resumes_to_the_identical_ending(
    name: str, runs: dict[str, tuple[Path, Summary]], tmp_path: Path
) -> None:
    class PulledPlugError(Exception):
        pass

    def pull_the_plug(event: object) -> None:
        if type(event).__name__ == "RoundClosed" and event.round == 2:  # type: ignore[attr-defined]
            raise PulledPlugError

    run_dir = tmp_path / "run"
    config = scheme_config(name)
    with pytest.raises(PulledPlugError):
        simulate(config, run_dir=run_dir, grid_name="local", observers=[pull_the_plug])
    resumed = simulate(config, run_dir=run_dir, grid_name="local", resume=True)
    finished = runs[name][1]
    assert [node.student_digest for node in resumed.nodes] == [node.student_digest for node in finished.nodes]
    assert resumed.fleet.bytes_up == finished.fleet.bytes_up
    assert resumed.fleet.bytes_down == finished.fleet.bytes_down


def test_weights_with_different_students_is_refused_with_the_reason(tmp_path: Path) -> None:
    config = scheme_config("weights", "student.model=cnn-tiny,mlp-small")
    with pytest.raises(ConfigError, match="one architecture"):
        simulate(config, run_dir=tmp_path / "run", grid_name="local")


def test_ensemble_takes_different_students(tmp_path: Path) -> None:
    config = scheme_config("ensemble", "student.model=cnn-tiny,mlp-small", "federation.num_rounds=2")
    summary = simulate(config, run_dir=tmp_path / "run", grid_name="local")
    assert {node.family for node in summary.nodes} == {"cnn-tiny", "mlp-small"}


def test_unknown_aggregator_is_named_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="median"):
        simulate(
            scheme_config("ensemble", "federation.aggregator=medain"),
            run_dir=tmp_path / "run",
            grid_name="local",
        )
    assert not (tmp_path / "run").exists()
