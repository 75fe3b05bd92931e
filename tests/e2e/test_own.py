"""Things of a user's own, from one file outside the repository, in whole federations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = """
import math

import numpy as np
import torch
from torch import nn

from fedstill.common.codecs import Codec
from fedstill.server.aggregators import Aggregated


class Net(nn.Module):
    def __init__(self, size, hidden, num_classes):
        super().__init__()
        self.register_buffer("mean", torch.full((size,), 0.1))
        self.layers = nn.Sequential(nn.Linear(size, hidden), nn.Tanh(), nn.Linear(hidden, num_classes))

    def forward(self, x):
        x = x.flatten(1)
        return {"logits": self.layers(x - self.mean - x.mean(dim=1, keepdim=True))}


def student(spec, *, num_classes, width):
    return Net(math.prod(spec.sample_shape), max(1, round(40 * width)), num_classes)


def loss(student_logits, teacher_logits, /, *, temperature):
    student, teacher = ((logits / temperature).softmax(dim=1) for logits in (student_logits, teacher_logits))
    return (student - teacher).abs().sum(dim=1).mean() * temperature


def aggregate(logits_NSC, *, present_NS, options):
    present = present_NS[:, :, None]
    total = np.where(present, logits_NSC, 0).sum(axis=0) / np.maximum(present.sum(axis=0), 1)
    return Aggregated(total.astype(np.float32), present_NS.any(axis=0))


def partition(labels_S, groups_S, *, num_nodes, rng, options):
    return [np.arange(node, len(labels_S), num_nodes) for node in range(num_nodes)]


def encode(logits_SC, *, temperature):
    return logits_SC.astype("<f2").tobytes()


def decode(payload, *, num_samples, num_classes, temperature):
    return np.frombuffer(payload, "<f2").reshape(num_samples, num_classes).astype(np.float32)


CODEC = Codec("half", encode, decode, lambda num_samples, num_classes: 2 * num_samples * num_classes)
"""
CONFIG = """
[student]
model = "own_five:student"
[distill]
loss = "own_five:loss"
num_epochs = 4
[exchange]
codec = "own_five:CODEC"
[federation]
scheme = "ensemble"
num_nodes = 3
num_rounds = 2
num_actors = 2
control_fraction = 0.0
aggregator = "own_five:aggregate"
partitioner = "own_five:partition"
"""


def fedstill(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs the command in a folder, as a user does."""
    command = [sys.executable, "-c", "from fedstill.server.cli import main; main()", *arguments]
    root = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {"PYTHONPATH": root}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def check_five(run_dir: Path) -> None:
    summary = json.loads((run_dir / "summary.json").read_text())
    assert [node["family"] for node in summary["nodes"]] == ["own_five:student"] * 3
    # Dealt in turn: sizes differ by one, as no built-in partitioner's do under these settings.
    assert max(node["num_train_samples"] for node in summary["nodes"]) < 1.1 * min(
        node["num_train_samples"] for node in summary["nodes"]
    )
    assert summary["fleet"]["accuracy_mean"] > 0.8
    manifest = json.loads((run_dir / "nodes" / "node-0000" / "artefact" / "manifest.json").read_text())
    assert manifest["family"] == "own_five:student"
    log = (run_dir / "log.jsonl").read_text()
    assert '"codec": "own_five:CODEC"' in log


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_five_things_of_a_users_own_run_on_ray_from_one_file(tmp_path: Path) -> None:
    (tmp_path / "own_five.py").write_text(MODULE)
    (tmp_path / "run.toml").write_text(CONFIG)
    done = fedstill("simulate", "run.toml", "--run-dir", "run", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    check_five(tmp_path / "run")
