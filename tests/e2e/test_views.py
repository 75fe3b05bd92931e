"""The teacher labels exactly what students see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedstill.clients import tasks
from fedstill.clients.distil import SoftLabels
from fedstill.clients.schemes import Lesson
from fedstill.common.config import Config, load_config
from fedstill.common.datasets import load_dataset, split_dataset
from fedstill.common.models import build_model, measure_input
from fedstill.common.training import load_weights, predict_logits
from fedstill.common.views import Views
from fedstill.server.labels import LabelStore
from fedstill.server.run.summary import Summary
from fedstill.server.simulate import simulate

QUICK = (
    "teacher.num_epochs=2",
    "teacher.learning_rate=0.005",
    "teacher.num_threads=1",
    "distill.num_epochs=2",
    "distill.num_views=3",
    "distill.mixup_ratio=0.5",
    "federation.num_nodes=2",
    "federation.num_rounds=2",
    "federation.control_fraction=0",
    "exchange.codec=fp32",
    "exchange.collect_artefacts=false",
    "monitoring.quality_nodes=0",
    "monitoring.enabled=false",
)


def views_config(*overrides: str) -> Config:
    return load_config(overrides=[*QUICK, *overrides])


def watch_lessons(monkeypatch: pytest.MonkeyPatch) -> list[SoftLabels]:
    seen: list[SoftLabels] = []
    make_study = tasks.make_study

    def keep(node: Any, task: Any, lesson: Lesson) -> Any:
        if lesson.labels is not None:
            seen.append(lesson.labels)
        return make_study(node, task, lesson)

    monkeypatch.setattr(tasks, "make_study", keep)
    return seen


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary, list[SoftLabels]]:
    """A finished run, and what its nodes learned from."""
    run_dir = tmp_path_factory.mktemp("views") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        seen = watch_lessons(monkeypatch)
        return run_dir, simulate(views_config(), run_dir=run_dir, grid_name="local"), seen


def test_soft_labels_are_the_teachers_answers_to_what_nodes_make(
    whole: tuple[Path, Summary, list[SoftLabels]],
) -> None:
    run_dir, summary, seen = whole
    config = views_config()
    dataset = load_dataset(config.data, seed=0)
    splits = split_dataset(dataset, data=config.data, federation=config.federation, seed=0)
    spec = measure_input(dataset.x_train[splits.server_train], task="image", layout="HW", scale=dataset.scale)
    teacher = build_model("cnn-medium", spec, num_classes=10)
    load_weights(teacher, run_dir / "teacher.safetensors")
    labels, num_public = seen[-1], len(splits.public)
    assert isinstance(labels.x_S, Views)
    assert len(labels.x_S) == len(labels.logits_SC) == 3 * num_public
    answers = predict_logits(teacher, labels.x_S)
    np.testing.assert_allclose(labels.logits_SC, answers, atol=1e-4)
    plain = predict_logits(teacher, np.tile(dataset.x_train[splits.public], (3, 1, 1)))
    assert np.abs(plain[num_public:] - answers[num_public:]).mean() > 0.02
    assert summary.fleet.public_sample_bytes == pytest.approx(2 * num_public * 64, rel=0.02)


def test_the_label_set_says_how_its_samples_are_made(
    whole: tuple[Path, Summary, list[SoftLabels]],
) -> None:
    store = LabelStore(whole[0] / "labels")
    (folder,) = (whole[0] / "labels" / "sets").iterdir()
    kept = store.label_set(folder.name).augmentation
    assert kept is not None
    assert (kept["num_views"], kept["mixup_ratio"], kept["flips"], kept["recipe"]) == (3, 0.5, False, 1)
    assert kept["seed"] > 0


@pytest.mark.parametrize("scheme", ["ensemble", "co-teaching"])
def test_nodes_of_two_way_schemes_label_the_views_too(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch_lessons(monkeypatch)
    simulate(views_config(f"federation.scheme={scheme}"), run_dir=tmp_path / "run", grid_name="local")
    assert len(seen[-1].logits_SC) == len(seen[-1].x_S) == 3 * 575


def test_interrupted_run_with_views_resumes_to_the_identical_ending(
    whole: tuple[Path, Summary, list[SoftLabels]], tmp_path: Path
) -> None:
    class PulledPlugError(Exception):
        pass

    def pull_the_plug(event: object) -> None:
        if type(event).__name__ == "RoundClosed":
            raise PulledPlugError

    config, run_dir = views_config(), tmp_path / "torn"
    with pytest.raises(PulledPlugError):
        simulate(config, run_dir=run_dir, grid_name="local", observers=[pull_the_plug])
    resumed = simulate(config, run_dir=run_dir, grid_name="local", resume=True)
    finished = whole[1]
    assert [node.student_digest for node in resumed.nodes] == [node.student_digest for node in finished.nodes]
