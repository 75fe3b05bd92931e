"""FedStill from Python: arrays, functions and modules in, records out."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fedstill
from fedstill.common.errors import ConfigError, DataError, UsageError
from fedstill.server.api import entries
from fedstill.server.api.settings import keep_data

QUICK: dict[str, Any] = {
    "teacher": {"num_epochs": 2, "min_accuracy": 0.0},
    "distill.num_epochs": 1,
    "federation": {"num_nodes": 2, "num_rounds": 1, "control_fraction": 0.0},
    "monitoring.quality_nodes": 0,
}


def arrays(num_samples: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = np.arange(num_samples) % 3
    x = rng.integers(0, 100, (num_samples, 8, 8)) + 50 * y[:, None, None]
    return x.astype(np.uint8), y


def run(tmp_path: Path, **options: Any) -> fedstill.Run:
    settings = {"data": arrays(), "grid": "local", "progress": False, "run_dir": tmp_path / "run"}
    return fedstill.simulate(QUICK, **(settings | options))


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDSTILL_HOME", str(tmp_path / "home"))


def test_a_run_on_arrays_comes_back_as_records(tmp_path: Path) -> None:
    told: list[object] = []
    found = run(tmp_path, observe=told.append)
    assert [node.node_id for node in found.nodes] == ["node-0000", "node-0001"]
    assert [record.round for record in found.rounds] == [1]
    assert found.rounds[0].nodes[0].accuracy == found.nodes[0].accuracy
    assert any(isinstance(event, fedstill.events.RoundClosed) for event in told)
    assert found.config.federation.num_nodes == 2
    frames = found.to_pandas()
    assert list(frames.nodes["node_id"]) == ["node-0000", "node-0001"]
    assert list(frames.rounds["round"]) == [1, 1]
    assert repr(fedstill.read_run(found.folder)) == repr(found)


def test_an_artefact_predicts_raw_samples(tmp_path: Path) -> None:
    found = run(tmp_path)
    artefact = found.artefact("node-0001")
    x, _ = arrays()
    predicted = artefact.predict(x)
    assert predicted.shape == (300,)
    np.testing.assert_array_equal(
        predicted, artefact.predict_probabilities(x.reshape(300, 64)).argmax(axis=1)
    )
    with pytest.raises(DataError, match="shape"):
        artefact.predict(x[:, :4])
    with pytest.raises(UsageError, match="did you mean"):
        found.artefact("node-001")


def make_student(spec: Any, *, num_classes: int, width: float) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(int(16 * width)), nn.ReLU(), nn.LazyLinear(num_classes))


class Held(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flatten(1).float() / 255)


def test_teacher_and_student_may_be_modules_of_this_process(tmp_path: Path) -> None:
    teacher = Held()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    found = run(tmp_path, teacher=teacher, student=student, grid="auto")
    assert found.nodes[0].num_parameters == 64 * 3 + 3
    assert found.teacher is not None
    assert found.teacher.num_epochs == 0  # it is held, not trained
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_a_function_of_a_notebook_is_a_student(tmp_path: Path) -> None:
    def narrow(spec: Any, *, num_classes: int, width: float) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))

    found = run(tmp_path, student=narrow, grid="auto")
    assert found.nodes[0].family.startswith("fedstill_lent:student_")


def test_what_lives_here_only_is_refused_on_ray() -> None:
    with pytest.raises(UsageError, match="grid='local'"):
        fedstill.simulate(
            QUICK, data=arrays(), student=lambda spec, *, num_classes, width: nn.Identity(), grid="ray"
        )


def test_runs_follow_one_another_in_one_process_and_give_the_same(tmp_path: Path) -> None:
    first, second = (run(tmp_path / name) for name in ("a", "b"))
    assert [node.student_digest for node in first.nodes] == [node.student_digest for node in second.nodes]


def test_a_run_works_inside_an_event_loop(tmp_path: Path) -> None:
    async def cell() -> fedstill.Run:
        return run(tmp_path)

    assert len(asyncio.run(cell()).nodes) == 2


def test_a_second_run_at_the_same_time_is_refused(tmp_path: Path) -> None:
    refused: list[str] = []

    def other() -> None:
        try:
            run(tmp_path / "other")
        except UsageError as error:
            refused.append(str(error))

    def watch(event: object) -> None:
        if isinstance(event, fedstill.events.RoundClosed):
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()

    run(tmp_path, observe=watch)
    assert len(refused) == 1
    assert "one after the other" in refused[0]


def test_an_interrupted_run_lets_the_next_begin(tmp_path: Path) -> None:
    def interrupt(event: object) -> None:
        if isinstance(event, fedstill.events.RoundClosed):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, observe=interrupt)
    assert not entries._ONE_RUN.locked()
    again = fedstill.simulate(resume=tmp_path / "run", grid="local", progress=False)
    assert again.summary.num_resumes == 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"distill.temprature": 2}, "did you mean distill.temperature"),
        ({"federation": {"num_nodes": "many"}}, "num_nodes"),
        (3, "got int"),
    ],
)
def test_a_wrong_configuration_is_told_in_one_line(config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        fedstill.simulate(config)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("data", [3, (1, 2, 3), {"x": [object()], "y": [0]}])
def test_data_that_are_none_are_told_in_one_line(data: Any) -> None:
    with pytest.raises(DataError, match="expected"):
        fedstill.simulate(QUICK, data=data)


def test_texts_are_data_too(tmp_path: Path) -> None:
    words = [["sun", "rain", "wind"], ["ball", "goal", "team"]]
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    x = [" ".join(rng.choice(words[label], 6)) for label in y]
    found = run(tmp_path, data=(x, y))
    assert found.artefact("node-0000").predict(["rain rain sun", "goal team goal"]).shape == (2,)
    with pytest.raises(DataError, match="list of texts"):
        found.artefact("node-0000").predict("rain")


def test_comparing_takes_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = fedstill.compare(QUICK, schemes=["local", "weights"], seeds=[0], data=arrays(), output_dir="out")
    assert found.is_sound
    assert {cell.scheme for cell in found.cells} == {"local", "weights"}


@pytest.mark.slow
def test_a_model_at_hand_is_compressed(tmp_path: Path) -> None:
    budget = fedstill.compress.__globals__["Budget"](num_epochs=1)
    front = fedstill.compress(
        Held(), data=arrays(), plans=["bits=8"], output_dir=tmp_path / "out", budget=budget, progress=False
    )
    assert front.rows


def test_comparing_finds_modules_beside_its_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, elsewhere = tmp_path / "beside", tmp_path / "elsewhere"
    beside.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (beside / "narrow.py").write_text(
        "from torch import nn\n\n\ndef student(spec, *, num_classes, width):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    (beside / "run.toml").write_text('[student]\nmodel = "narrow:student"\n')
    found = fedstill.compare(
        beside / "run.toml", schemes="local", seeds=[0], data=arrays(), overrides=QUICK, output_dir="out"
    )
    assert found.is_sound


def test_the_same_arrays_are_kept_once(tmp_path: Path) -> None:
    first, second = (keep_data(arrays(), label_column="label") for _ in range(2))
    assert first == second
    before = Path(first).stat().st_mtime_ns
    keep_data(arrays(), label_column="label")
    assert Path(first).stat().st_mtime_ns == before
