"""Things of a user's own, from one file outside the repository, in whole federations."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from fedstill.common.config import load_config
from fedstill.common.errors import ConfigError
from fedstill.server.simulate import simulate
from tests.server.grids.test_ray_cluster import end, start_ray

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


def fedstill(*arguments: str, folder: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the command in a folder, as a user does."""
    command = [sys.executable, "-c", "from fedstill.server.cli import main; main()", *arguments]
    root = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, str(path)] if path else [root])}
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


@pytest.mark.slow
def test_a_run_is_resumed_where_its_modules_are_not(tmp_path: Path) -> None:
    beside, elsewhere = tmp_path / "beside", tmp_path / "elsewhere"
    beside.mkdir()
    elsewhere.mkdir()
    (beside / "own_five.py").write_text(MODULE)
    (beside / "run.toml").write_text('[distill]\nloss = "own_five:loss"\n')
    keys = [
        "federation.num_nodes=2",
        "federation.num_rounds=1",
        "teacher.num_epochs=2",
        "distill.num_epochs=2",
    ]
    settings = [part for key in keys for part in ("--set", key)]
    run = str(tmp_path / "run")
    command = ["simulate", str(beside / "run.toml"), "--grid", "local", "--run-dir", run, *settings]
    assert fedstill(*command, folder=elsewhere).returncode == 0
    shutil.rmtree(beside)
    done = fedstill("simulate", "--grid", "local", "--resume", run, folder=elsewhere)
    assert done.returncode == 0, done.stderr


REST = """
from dataclasses import replace

import numpy as np

from fedstill.clients.schemes.teacher import learn_alone
from fedstill.common.compressors.exporting import export_onnx
from fedstill.common.datasets.records import Content, Part
from fedstill.common.inference import open_graph
from fedstill.common.runtimes import Runtime
from fedstill.server.schemes import Scheme

ALONE = Scheme(learn=learn_alone)


def blobs():
    rng = np.random.default_rng(0)
    y_S = rng.integers(0, 3, 600)
    return Content(Part((rng.normal(size=(600, 4)) + 2 * y_S[:, None]).astype(np.float32), y_S))


def export(job):
    found = export_onnx(job)
    return replace(found, files={"model.own": found.files["model.onnx"]}, runtime="own_rest:RUNTIME")


def open_own(files, *, num_threads, options):
    return open_graph(files["model.own"], num_threads=num_threads, options=options)


RUNTIME = Runtime("My own", "model.own", open_own, export=export)


def compare(student_features, teacher_features, /):
    return (student_features - teacher_features).abs().mean()


compare.compares = "features"
"""


@pytest.mark.parametrize(
    "key",
    [
        "federation.scheme=own_rest:ALONE",
        "compress.runtime=own_rest:RUNTIME",
        "distill.loss=own_rest:compare",
    ],
)
def test_scheme_runtime_and_feature_loss_may_be_the_users_own(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_rest.py").write_text(REST)
    monkeypatch.chdir(tmp_path)
    keys = [
        "data.source=own_rest:blobs",
        "teacher.num_epochs=3",
        "distill.num_epochs=3",
        "federation.num_nodes=2",
    ]
    keys += ["federation.num_rounds=1", "federation.control_fraction=0.0", "federation.alpha=10.0", key]
    summary = simulate(load_config(overrides=keys), run_dir=tmp_path / "run", grid_name="local")
    assert summary.fleet.accuracy_mean > 0.5
    manifest = json.loads(
        (tmp_path / "run" / "nodes" / "node-0000" / "artefact" / "manifest.json").read_text()
    )
    assert manifest["runtime"] == ("own_rest:RUNTIME" if "RUNTIME" in key else "onnxruntime")


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_cluster_is_sent_what_lies_beside_the_configuration() -> None:
    folder = Path(tempfile.mkdtemp(prefix="fs", dir="/tmp"))  # sockets' paths are limited to 107 bytes
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    options = ("--head", "--port=0", "--include-dashboard=false", f"--temp-dir={folder}/r")
    head, log = start_ray(*options, temp_dir=folder, environment=environment)
    try:
        while not (found := re.search(r"--address='([\d.]+:\d+)'", log.read_text())):
            assert head.poll() is None, log.read_text()
            time.sleep(0.1)
        (folder / "beside").mkdir()
        (folder / "beside" / "own_five.py").write_text(MODULE)
        config = CONFIG.replace("num_actors = 2", "num_actors = 1")
        (folder / "beside" / "run.toml").write_text(config)
        command = ["simulate", "beside/run.toml", "--run-dir", "run", "--ray-address", found[1]]
        done = fedstill(*command, folder=folder)
        assert done.returncode == 0, done.stderr
        check_five(folder / "run")
    finally:
        end(head)
        shutil.rmtree(folder, ignore_errors=True)


TEXT_MODULE = '''
import zlib
from types import SimpleNamespace

import torch
from torch import nn


class Reader(nn.Module):
    """A bag of hashed words that answers as models of transformers do."""

    def __init__(self, num_classes):
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(4096, 64), nn.Linear(64, num_classes)

    def forward(self, texts):
        ids = [[zlib.crc32(word.encode()) % 4096 for word in text.lower().split()] or [0] for text in texts]
        offsets = torch.tensor([0, *map(len, ids)][:-1]).cumsum(0)
        return SimpleNamespace(logits=self.head(self.bag(torch.tensor(sum(ids, [])), offsets)))


def teacher(spec, num_classes):
    return Reader(num_classes)


teacher.takes = "text"
'''


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Texts whose class one word tells, rare enough to be no part of a small vocabulary."""
    lines = ["label,text"]
    lines += [f"{'ab'[n % 2]},{'xylem' if n % 2 else 'quartz'} said number {n} of them" for n in range(300)]
    (tmp_path / "texts.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "own_text.py").write_text(TEXT_MODULE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


TEXT_KEYS = (
    "data.source=texts.csv",
    "teacher.factory=own_text:teacher",
    "teacher.learning_rate=0.05",
    "federation.num_nodes=2",
    "federation.num_rounds=1",
    "distill.num_epochs=2",
    "federation.control_fraction=0.0",
)


def test_a_teacher_of_raw_texts_is_trained_labels_and_is_taken_up_again(texts: Path) -> None:
    config = load_config(overrides=TEXT_KEYS)
    summary = simulate(config, run_dir=texts / "run", grid_name="local")
    assert summary.teacher is not None
    assert summary.teacher.model == "own_text:teacher"
    assert summary.teacher.accuracy > 0.9
    held = load_config(overrides=[*TEXT_KEYS, f"teacher.checkpoint={texts / 'run' / 'teacher.safetensors'}"])
    again = simulate(held, run_dir=texts / "again", grid_name="local")
    assert again.teacher is not None
    assert (again.teacher.digest, again.teacher.accuracy) == (
        summary.teacher.digest,
        summary.teacher.accuracy,
    )


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("distill.num_views=2", "distill.num_views changes ids"),
        ("distill.loss=hint", "compares features of ids"),
        ("federation.scheme=co-teaching", "trains it on ids"),
    ],
)
def test_what_a_teacher_of_texts_cannot_do_is_refused(texts: Path, key: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        simulate(load_config(overrides=[*TEXT_KEYS, key]), run_dir=texts / "run", grid_name="local")


def test_entry_points_of_an_installed_distribution_run(tmp_path: Path) -> None:
    site, work = tmp_path / "site", tmp_path / "work"
    info = site / "plugged-2.0.dist-info"
    info.mkdir(parents=True)
    work.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text(
        "[fedstill.losses]\ntotal = plugged:loss\n[fedstill.models]\nplain = plugged:student\n"
        "[fedstill.aggregators]\nplain = plugged:aggregate\n"
    )
    (site / "plugged.py").write_text(MODULE)
    listed = fedstill("list", "losses", folder=work, path=site)
    assert "total         plugged:loss, of plugged 2.0" in listed.stdout, listed.stderr
    keys = [
        "distill.loss=total",
        "student.model=plain",
        "federation.aggregator=plain",
        "distill.num_epochs=3",
    ]
    keys += ["federation.scheme=ensemble", "federation.num_nodes=2", "federation.num_rounds=1"]
    settings = [part for key in keys for part in ("--set", key)]
    done = fedstill("simulate", "--grid", "local", "--run-dir", "run", *settings, folder=work, path=site)
    assert done.returncode == 0, done.stderr
    summary = json.loads((work / "run" / "summary.json").read_text())
    assert {node["family"] for node in summary["nodes"]} == {"plain"}
