"""Losses of features work end to end: the teacher's features travel beside its soft labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedstill.clients import tasks
from fedstill.clients.distil import SoftLabels
from fedstill.clients.schemes import Outcome
from fedstill.common.config import Config, load_config
from fedstill.common.errors import ConfigError
from fedstill.server.exchange.hints import scale_features
from fedstill.server.simulate import simulate

QUICK = (
    "teacher.num_epochs=2",
    "teacher.num_threads=1",
    "distill.num_epochs=2",
    "distill.num_views=2",
    "data.num_public=200",
    "federation.num_nodes=2",
    "federation.num_rounds=2",
    "federation.control_fraction=0",
    "exchange.collect_artefacts=false",
    "monitoring.quality_nodes=0",
    "monitoring.enabled=false",
)


def hint_config(*overrides: str) -> Config:
    return load_config(overrides=[*QUICK, *overrides])


@pytest.mark.parametrize(
    ("kind", "scheme", "shape"), [("hint", "teacher", (256,)), ("attention", "co-teaching", (4, 4))]
)
def test_teachers_features_reach_students_beside_its_labels(
    kind: str, scheme: str, shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[SoftLabels] = []
    finish = tasks.finish

    def keep(assignment: Any, outcome: Outcome) -> Any:
        seen.append(assignment.lesson.labels)
        assert np.isfinite(outcome.distillation_loss)
        return finish(assignment, outcome)

    monkeypatch.setattr(tasks, "finish", keep)
    config = hint_config(f"distill.loss={kind}", f"federation.scheme={scheme}")
    summary = simulate(config, run_dir=tmp_path / "run", grid_name="local")
    hint = seen[-1].hint
    assert hint is not None
    assert (hint.kind, hint.weight) == (kind, 1.0)
    assert hint.features_S.shape == (2 * 200, *shape)
    assert hint.features_S.dtype == np.float16
    num_bytes = 2 * 200 * int(np.prod(shape)) * 2
    assert all(node.bytes_down > num_bytes for node in summary.nodes)


def test_features_need_a_teacher(tmp_path: Path) -> None:
    config = hint_config("distill.loss=hint", "federation.scheme=ensemble")
    with pytest.raises(ConfigError, match="has no teacher; use one of teacher, co-teaching"):
        simulate(config, run_dir=tmp_path / "run", grid_name="local")
    assert not (tmp_path / "run").exists()


def test_attention_with_a_student_that_looks_nowhere_says_so(tmp_path: Path) -> None:
    config = hint_config("distill.loss=attention", "student.model=mlp-small", "federation.num_rounds=1")
    with pytest.raises(Exception, match="this model has none; use hint"):
        simulate(config, run_dir=tmp_path / "run", grid_name="local")


def test_features_are_standardised_and_maps_are_between_0_and_1() -> None:
    features = np.random.default_rng(0).normal(3, 50, (400, 6)).astype(np.float32)
    features[:, 2] = 7
    scaled = scale_features(features, kind="hint").astype(np.float64)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(scaled.std(axis=0), [1, 1, 0, 1, 1, 1], atol=1e-3)
    maps = np.square(features).reshape(400, 2, 3)
    maps[0] = 0
    scaled_maps = scale_features(maps, kind="attention")
    assert scaled_maps[0].max() == 0
    assert (scaled_maps[1:].max(axis=(1, 2)) == 1).all()
