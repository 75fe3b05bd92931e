"""What `fedstill init` writes runs as it is, and its models and loss are what the configuration expects."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import jsonschema
import numpy as np
import pytest
import torch

from fedstill.common.config import config_schema, load_config
from fedstill.common.models import InputSpec, measure_input
from fedstill.common.training import predict_logits
from fedstill.server.cli import run

ROOT = Path(__file__).resolve().parents[3]


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["fedstill", *map(str, words)])
    return run()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the command wrote; the working directory."""
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, "init") == 0
    return tmp_path


@pytest.fixture
def mine(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("mine", folder / "mine.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def samples() -> tuple[np.ndarray, InputSpec]:
    x = np.random.default_rng(0).integers(0, 17, (5, 8, 8)).astype(np.uint8)
    return x, measure_input(x, task="image", layout="HW", scale=1.0)


def test_the_configuration_is_valid_with_its_comments_and_without(folder: Path) -> None:
    text = (folder / "fedstill.toml").read_text()
    bare = load_config(folder / "fedstill.toml")
    assert (bare.student.model, bare.distill.loss, bare.teacher.factory) == ("auto", "kl", "")
    (folder / "own.toml").write_text(re.sub(r'^# (\w+ = "mine:)', r"\1", text, flags=re.MULTILINE))
    own = load_config(folder / "own.toml")
    assert own.student.model == "mine:student"
    assert own.distill.loss == "mine:loss"
    assert own.teacher.factory == "mine:teacher"


@pytest.mark.slow
def test_it_runs_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("simulate", "fedstill.toml", "--grid", "local", "--run-dir", "run")
    assert command(monkeypatch, *words) == 0
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert len(summary["nodes"]) == 4
    assert summary["fleet"]["accuracy_mean"] > 0.8


def test_models_of_the_module_take_raw_samples(
    mine: ModuleType, samples: tuple[np.ndarray, InputSpec]
) -> None:
    x, spec = samples
    wide, narrow = mine.teacher(spec, 3), mine.student(spec, num_classes=3, width=0.5)
    for model in (wide, narrow):
        assert predict_logits(model, x).shape == (5, 3)
    assert sum(p.numel() for p in narrow.parameters()) < sum(p.numel() for p in wide.parameters()) / 4


def test_the_loss_of_the_module_is_least_where_both_agree(mine: ModuleType) -> None:
    teacher = torch.tensor([[1.0, 0.0, -2.0]])
    student = teacher.clone().requires_grad_()
    mine.loss(student, teacher, temperature=4.0).backward()
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-6
    assert mine.loss(-teacher, teacher, temperature=4.0) > mine.loss(teacher, teacher, temperature=4.0)


@pytest.mark.parametrize("name", ["fedstill.toml", "mine.py", "fedstill.schema.json"])
def test_nothing_is_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / name).write_text("the user's")
    assert command(monkeypatch, "init", tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"holds {name} already" in line
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "the user's"


def test_a_file_is_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert command(monkeypatch, "init", tmp_path / "file") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_schema_that_it_names_is_the_one_that_is_printed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = (folder / "fedstill.toml").read_text().splitlines()[0]
    capsys.readouterr()
    assert command(monkeypatch, "config", "--schema") == 0
    printed = capsys.readouterr().out
    assert printed == config_schema() == (folder / first.removeprefix("#:schema ")).read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.toml")), ids=lambda path: path.stem)
def test_the_schema_takes_every_example(path: Path) -> None:
    jsonschema.validate(tomllib.loads(path.read_text()), json.loads(config_schema()))


@pytest.mark.parametrize(
    "text",
    ["sed = 1", "[data]\nsorce = 'digits'", "[data]\ntask = 'picture'", "[student]\nwidth = 0"],
)
def test_the_schema_refuses_what_the_configuration_refuses(text: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tomllib.loads(text), json.loads(config_schema()))


def test_the_schema_takes_lists_of_names() -> None:
    jsonschema.validate({"student": {"model": ["cnn-tiny", "mlp-small"]}}, json.loads(config_schema()))
