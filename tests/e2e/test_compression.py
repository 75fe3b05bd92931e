"""Students that are compressed while they learn, through rounds, a resume and an honest control."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedstill.common.artefact import read_artefact
from fedstill.common.config import Config, load_config
from fedstill.common.datasets import load_dataset
from fedstill.server.run.state import load_state
from fedstill.server.run.summary import Summary
from fedstill.server.simulate import simulate

pytestmark = pytest.mark.xdist_group("compression")  # what they share takes long to make

SMALL = (
    "teacher.num_epochs=6",
    "distill.num_epochs=4",
    "federation.num_nodes=2",
    "federation.num_rounds=2",
    "teacher.num_threads=1",
    "student.model=cnn-small",
    "monitoring.quality_nodes=1",
)


class PulledPlugError(Exception):
    """Ends a coordinator after its first round."""


def configure(*overrides: str) -> Config:
    return load_config(overrides=[*SMALL, *overrides])


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    """Pruned, made sparse, quantised and packed; interrupted after the first round."""
    config = configure("compress.steps=prune,sparsify,quantise", "compress.sparsity=0.5")
    run_dir = tmp_path_factory.mktemp("runs") / "resumed"

    def pull_the_plug(event: object) -> None:
        if type(event).__name__ == "RoundClosed":
            raise PulledPlugError

    with pytest.raises(PulledPlugError):
        simulate(config, run_dir=run_dir, grid_name="local", observers=[pull_the_plug])
    assert load_state(run_dir).round == 1
    return run_dir, simulate(config, run_dir=run_dir, grid_name="local", resume=True)


def read_manifest(run_dir: Path, summary: Summary) -> dict[str, Any]:
    return json.loads((run_dir / str(summary.nodes[0].artefact_path) / "manifest.json").read_text())  # type: ignore[no-any-return]


# 60 + 660 + 2616 + 250 by hand, at half the channels.
def test_pruned_students_go_on_from_their_base(resumed: tuple[Path, Summary]) -> None:
    rounds = [json.loads(line)["nodes"] for line in (resumed[0] / "rounds.jsonl").read_text().splitlines()]
    assert [node["num_parameters"] for line in rounds for node in line] == [3586] * 4
    assert all(node.num_state_resets == 0 for node in resumed[1].nodes)
    assert (resumed[1].rounds[1].accuracy_mean or 0) > (resumed[1].rounds[0].accuracy_mean or 0)


def test_the_packed_artefact_is_what_the_run_measured(resumed: tuple[Path, Summary]) -> None:
    run_dir, summary = resumed
    artefact = read_artefact(run_dir / str(summary.nodes[0].artefact_path))
    assert artefact.runtime == "packed"
    dataset = load_dataset(load_config().data, seed=0)
    predicted = artefact.predict(dataset.x_test).argmax(axis=1)
    assert np.mean(predicted == dataset.y_test) == summary.nodes[0].accuracy
    assert summary.nodes[0].artefact_bytes < 3586 * 4


def test_the_manifest_says_what_each_step_cost(resumed: tuple[Path, Summary]) -> None:
    manifest = read_manifest(*resumed)
    steps = manifest["compression"]["steps"]
    assert [step["step"] for step in steps] == ["prune", "sparsify", "quantise"]
    assert steps[0]["bytes_after"] < steps[0]["bytes_before"] / 2
    assert all(step["accuracy_at_once"] is not None for step in steps)
    assert manifest["uncompressed_accuracy"]["value"] == resumed[1].nodes[0].uncompressed_accuracy


def test_an_uncompressed_control_stands_beside_each_student(resumed: tuple[Path, Summary]) -> None:
    for node in resumed[1].nodes:
        assert node.uncompressed_accuracy is not None
        assert node.local_accuracy is not None
    assert resumed[1].fleet.uncompressed_accuracy_mean is not None
    assert "uncompressed, distilled alike" in (resumed[0] / "report.html").read_text()


def test_compressed_models_are_compared_with_their_teacher(resumed: tuple[Path, Summary]) -> None:
    qualities = [node.quality for node in resumed[1].nodes if node.quality]
    assert len(qualities) == 1
    assert qualities[0].artefact_to_fp32.agreement_ratio > 0.8


@pytest.mark.parametrize("scheme", ["teacher", "local"])
def test_a_control_of_nothing_removed_is_the_student_itself(tmp_path: Path, scheme: str) -> None:
    # No layer has enough channels to lose a thousandth of them.
    config = configure(
        f"federation.scheme={scheme}",
        "federation.num_nodes=1",
        "compress.steps=prune",
        "compress.prune_ratio=0.001",
        "monitoring.quality_nodes=0",
    )
    (node,) = simulate(config, run_dir=tmp_path / "run", grid_name="local").nodes
    assert node.uncompressed_accuracy == node.fp32_accuracy == node.accuracy


def test_the_uncompressed_form_of_a_quantised_student_is_itself(tmp_path: Path) -> None:
    config = configure(
        "federation.num_nodes=1", "federation.control_fraction=0", "monitoring.quality_nodes=0"
    )
    (node,) = simulate(config, run_dir=tmp_path / "run", grid_name="local").nodes
    assert node.uncompressed_accuracy == node.fp32_accuracy
