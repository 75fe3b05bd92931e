"""What is the user's own is tried out before anything is trained; each mistake is one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fedstill.server.cli import run

MODULE = '''
import math
import types

import numpy as np
import torch
from torch import nn

from fedstill.common.codecs import Codec


class Net(nn.Module):
    """Answers in the form that `wrap` gives its logits."""

    def __init__(self, spec, num_classes, wrap=lambda logits: logits):
        super().__init__()
        self.layer, self.wrap = nn.Linear(math.prod(spec.sample_shape), num_classes), wrap

    def forward(self, x):
        return self.wrap(self.layer(x.flatten(1).float()))


def raising(logits):
    raise RuntimeError("out of order")


class Svd(nn.Module):
    def forward(self, x):
        return torch.linalg.svd(x.reshape(-1, 8, 8))[1]


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def no_module(spec, num_classes=0, **ignored):
    return 3


def breaks(spec, num_classes):
    return 1 / 0


def wide(spec, num_classes):
    return Net(spec, 64)


def wide_student(spec, *, num_classes, width):
    return Net(spec, 64)


def infinite(spec, *, num_classes, width):
    return Net(spec, num_classes, lambda logits: logits / 0)


def detached(spec, *, num_classes, width):
    return Net(spec, num_classes, lambda logits: logits.detach())


def texts(spec, num_classes):
    return Net(spec, num_classes)


texts.takes = "text"


def other_dict(spec, num_classes):
    return Net(spec, num_classes, lambda logits: {"scores": logits})


def faulty(spec, num_classes):
    return Net(spec, num_classes, raising)


def no_form(spec, *, num_classes, width):
    return nn.Sequential(Svd(), nn.Linear(8, num_classes))


def branching(spec, *, num_classes, width):
    return nn.Sequential(nn.Flatten(), Branching(), nn.Linear(64, num_classes))


def drawing(spec, *, num_classes, width):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes), Noise())


class Noise(nn.Module):
    def forward(self, x):
        return x + torch.rand(())


def many(student, teacher, /, *, temperature):
    return (student - teacher).square()


def constant(student, teacher, /, *, temperature):
    return torch.tensor(1.0)


def keyless(student, teacher):
    return (student - teacher).square().mean()


def none(logits_NSC, *, present_NS, options):
    return logits_NSC.mean(axis=0)


def twice(labels_S, groups_S, *, num_nodes, rng, options):
    return [np.arange(len(labels_S))] * num_nodes


SHORT = Codec("s", lambda logits, **_: b"", lambda payload, **_: np.zeros(3), lambda *shape: 0)
'''
TEACHER, STUDENT = "teacher.factory", "student.model"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_bad.py").write_text(MODULE)
    (tmp_path / "own_broken.py").write_text("import no_such_library\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def simulate(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    arguments = ["fedstill", "simulate", "--grid", "local", "--run-dir", "run"]
    before = sys.argv
    sys.argv = [*arguments, *(part for item in overrides for part in ("--set", item))]
    try:
        code = run()
    finally:
        sys.argv = before
    lines = capsys.readouterr().err.splitlines()
    told = [number for number, line in enumerate(lines) if line.startswith("fedstill:")]
    return code, "\n".join(lines[: told[0]] if told else lines), "\n".join(lines[told[0] :] if told else [])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([f"{TEACHER}=own_missing:f"], "teacher.factory: cannot import 'own_missing'"),
        ([f"{TEACHER}=own_broken:f"], "own_broken.py does not import: ModuleNotFoundError: No module named"),
        ([f"{TEACHER}=own_bad:wiide"], "own_bad.py holds no 'wiide'; did you mean 'wide'"),
        ([f"{TEACHER}=own_bad:no_module"], "expected own_bad:no_module to return a torch.nn.Module, got int"),
        (["teacher.model=own_bad:breaks"], "teacher.model: own_bad:breaks raised ZeroDivisionError"),
        ([f"{TEACHER}=own_bad:wide"], "own_bad:wide gives (8, 64) for 8 samples; expected logits (8, 10)"),
        ([f"{TEACHER}=own_bad:other_dict"], 'under "logits", got dict'),
        ([f"{TEACHER}=own_bad:faulty"], "raised RuntimeError: out of order (own_bad.py, line"),
        ([f"{TEACHER}=own_bad:texts"], "takes texts, and the data holds image samples"),
        (["teacher.device=cuda"], "teacher.device is cuda and torch sees no GPU here"),
        (["federation.device=cuda"], "federation.device is cuda and torch sees no GPU here"),
        ([f"{STUDENT}=cnn-tiny,cnn-tinny"], "unknown student model 'cnn-tinny'; did you mean 'cnn-tiny'"),
        ([f"{STUDENT}=own_broken:f"], "own_broken.py does not import: ModuleNotFoundError: No module named"),
        ([f"{STUDENT}=own_bad:no_module"], "expected own_bad:no_module to return a torch.nn.Module, got int"),
        ([f"{STUDENT}=own_bad:wide"], "own_bad:wide raised TypeError"),
        ([f"{STUDENT}=own_bad:wide_student"], "gives (8, 64) for 8 samples; expected logits (8, 10)"),
        ([f"{STUDENT}=own_bad:infinite"], "gives logits that are not finite"),
        ([f"{STUDENT}=own_bad:detached"], "no gradient reaches own_bad:detached"),
        ([f"{STUDENT}=own_bad:no_form"], "(Svd) computes aten._linalg_svd"),
        ([f"{STUDENT}=own_bad:branching"], "does not become an artefact, for its layer 1.0.1 (Branching)"),
        ([f"{STUDENT}=own_bad:drawing"], "own_bad:drawing computes other logits once it is exported"),
        (["distill.loss=own_bad:many"], "return a tensor of one number, got shape (8, 10)"),
        (["distill.loss=own_bad:constant"], "gives one without gradient"),
        (["distill.loss=own_bad:keyless"], "own_bad:keyless raised TypeError"),
        (["exchange.codec=own_bad:many"], "expected own_bad:many to be a Codec, got function"),
        (["exchange.codec=own_bad:SHORT"], "expected own_bad:SHORT.decode to give finite float32 logits"),
        (
            ["federation.scheme=ensemble", "federation.aggregator=own_bad:none"],
            "expected own_bad:none to return an Aggregated, got ndarray",
        ),
        (["federation.partitioner=own_bad:twice"], "samples to exactly one node"),
        (["data.source=own_bad:no_module"], "data.source: own_bad:no_module raised TypeError"),
        (["compress.runtime=own_bad:TEACHER"], "compress.runtime: "),
    ],
)
def test_what_cannot_work_is_told_in_a_line_before_anything_is_trained(
    overrides: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, before, told = simulate(overrides, capsys)
    assert message in told
    assert (code, told.count("\n")) == (2, 0)
    assert "teacher: started" not in before
    assert "Traceback" not in before
    assert not (folder / "run").exists()
