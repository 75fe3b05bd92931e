"""A student that brings a tokenizer.json: it travels with the artefact and runs there without torch."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from fedstill.common.config import load_config
from fedstill.common.errors import DataError
from fedstill.server.simulate import simulate

TOPICS = {
    "sport": "the team won the match after a late goal from the striker",
    "business": "shares fell as the bank raised rates and profits sank",
}
KEYS = (
    "data.source=news.csv",
    "data.tokenizer=tokenizer.json",
    "data.max_length=12",
    "federation.num_nodes=2",
    "federation.num_rounds=1",
    "federation.control_fraction=0.0",
    "teacher.learning_rate=0.02",
    "distill.learning_rate=0.02",
)
PREDICT = """
import sys
for name in ("torch", "flwr", "grpc"):
    sys.modules[name] = None
from fedstill.common.prediction import open_artefact
print(open_artefact("run/nodes/node-0000/artefact").predict([
    "A late GOAL from the striker won the match!", "Profits sank as the bank raised rates",
]).tolist())
"""


@pytest.fixture(scope="module")
def news(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("news")
    rng = np.random.default_rng(0)
    rows = [
        (topic, " ".join(rng.permutation(words.split())[:6]))
        for topic, words in TOPICS.items()
        for _ in range(150)
    ]
    with (folder / "news.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("label", "text"), *rows])
    # Given and not trained: the library's trainers break ties as they fall, anew in each process.
    words = dict.fromkeys(["[PAD]", "[UNK]", *sorted(set(" ".join(TOPICS.values()).split()))])
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_it_travels_with_the_artefact_and_runs_without_torch(
    news: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(news)
    summary = simulate(load_config(overrides=KEYS), run_dir=news / "run", grid_name="local")
    assert min(node.accuracy for node in summary.nodes) > 0.9
    artefact = news / "run" / "nodes" / "node-0000" / "artefact"
    manifest = json.loads((artefact / "manifest.json").read_text())
    assert manifest["input"]["shape"] == [12]
    shipped = json.loads((artefact / "encoder.json").read_text())
    assert shipped["tokenizer"] == json.loads((news / "tokenizer.json").read_text())
    done = subprocess.run(
        [sys.executable, "-c", PREDICT], cwd=news, capture_output=True, text=True, check=False
    )
    sport, business = (manifest["classes"].index(topic) for topic in TOPICS)
    assert done.stdout == f"[{sport}, {business}]\n", done.stderr


def test_numbers_have_no_use_for_a_tokenizer(news: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(news)
    config = load_config(overrides=["data.tokenizer=tokenizer.json"])
    with pytest.raises(
        DataError, match=r"data\.tokenizer makes ids of texts, and the data holds image samples"
    ):
        simulate(config, run_dir=news / "images", grid_name="local")
    assert not (news / "images").exists()
