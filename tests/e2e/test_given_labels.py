"""A teacher that is no model here: public samples out, labels of another system in."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from fedstill.common.config import Config, load_config
from fedstill.common.errors import ConfigError
from fedstill.server.cli import cli
from fedstill.server.federation.preparation import check_names
from fedstill.server.run.state import load_state
from fedstill.server.run.summary import SCHEMA_PATH
from fedstill.server.simulate import simulate
from tests.e2e.test_own import fedstill

KEYS = (
    "teacher.labels=labels.npz",
    "federation.num_nodes=2",
    "federation.num_rounds=2",
    "federation.target_gap=0.5",
    "federation.control_fraction=0.0",
    "distill.num_epochs=10",
)


def configure(*more: str) -> Config:
    return load_config(overrides=[*KEYS, *more])


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with public samples as the command exports them, and scikit-learn's labels of them."""
    folder = tmp_path_factory.mktemp("given")
    settings = [part for key in KEYS for part in ("--set", key)]
    done = fedstill("teacher", "public", *settings, "--output", "public", folder=folder)
    assert done.returncode == 0, done.stderr
    digits = load_digits()
    model = LogisticRegression(max_iter=400).fit(digits.data[:900] / 16, digits.target[:900])
    with np.load(folder / "public" / "public.npz") as public:
        x_S, digest = public["x"], public["digest"]
    probabilities_SC = model.predict_proba(x_S.reshape(len(x_S), -1) / 16)
    np.savez(folder / "labels.npz", digest=digest, probabilities=probabilities_SC)
    return folder


def test_students_learn_from_labels_that_scikit_learn_gave(
    labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(labelled)
    summary = simulate(configure(), run_dir=labelled / "run", grid_name="local")
    document = json.loads((labelled / "run" / "summary.json").read_text())
    jsonschema.validate(document, json.loads(SCHEMA_PATH.read_text()))
    teacher = document["teacher"]
    assert teacher["model"] == "labels.npz"
    for key in ("accuracy", "initial_accuracy", "validation_accuracy", "num_parameters", "size_bytes"):
        assert teacher[key] is None
    assert min(node.accuracy for node in summary.nodes) > 0.85
    assert {node.agreement_ratio for node in summary.nodes} == {None}
    # Whatever gap was to be reached: there is nothing to be behind of.
    assert [entry.round for entry in summary.rounds] == [1, 2]
    assert not (labelled / "run" / "teacher.safetensors").exists()
    assert load_state(labelled / "run").exchange.given_origin == teacher["digest"]
    report = (labelled / "run" / "report.html").read_text()
    assert "labels.npz" in report
    assert "the same students before compression" in report


def test_a_run_goes_on_without_the_file(labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(labelled)
    run_dir, path = labelled / "broken", labelled / "labels.npz"

    class StoppedError(Exception):
        pass

    def stop(event: object) -> None:
        if type(event).__name__ == "RoundClosed":
            raise StoppedError

    with pytest.raises(StoppedError):
        simulate(configure(), run_dir=run_dir, grid_name="local", observers=[stop])
    content = path.read_bytes()
    path.unlink()
    try:
        summary = simulate(configure(), run_dir=run_dir, grid_name="local", resume=True)
    finally:
        path.write_bytes(content)
    assert len(summary.rounds) == 2
    assert summary.num_resumes == 1


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("distill.num_views=2", "distill.num_views needs a teacher that labels each view"),
        ("distill.loss=hint", "distill.loss = hint compares features"),
        ("federation.scheme=co-teaching", "the scheme co-teaching trains the teacher"),
    ],
)
def test_what_takes_a_model_is_refused(key: str, message: str) -> None:
    with pytest.raises(
        ConfigError, match=f"teacher.labels brings soft labels without a model, and {message}"
    ):
        check_names(configure(key))


@pytest.mark.parametrize("key", ["teacher.checkpoint=mine.safetensors", "teacher.factory=mine:teacher"])
def test_two_teachers_are_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=r"teacher\.labels and .* name two teachers"):
        configure(key)


def test_labels_of_another_seed_are_refused_before_anything_runs(
    labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(labelled)
    done = fedstill(
        "simulate", "--grid", "local", "--run-dir", "other", "--set", "seed=1",
        *[part for key in KEYS for part in ("--set", key)], folder=labelled,
    )  # fmt: skip
    assert done.returncode == 2
    assert "labels.npz is of another public set" in done.stderr.splitlines()[-1]
    assert not (labelled / "other").exists()


def test_the_commands_stay_few() -> None:
    assert len(cli.registered_commands) + len(cli.registered_groups) <= 16
