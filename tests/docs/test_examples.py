"""The examples of README and of the pages run, those of a document one after the other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, RecordDict

import fedstill
from fedstill.common.config import flatten
from fedstill.server.grids import LocalGrid

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^<!-- (run|run: app|file: ([\w.]+)) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# `mine.toml` where a document does not write its own: all that it says of the federation stays true.
TINY = """
[teacher]
num_epochs = 4
num_threads = 1
[distill]
num_epochs = 2
[federation]
num_nodes = 2
num_rounds = 1
[monitoring]
quality_nodes = 0
"""


def run_examples(document: str) -> dict[str, Any]:
    """Runs a document's blocks in the working directory; gives what they defined."""
    text = (ROOT / document).read_text(encoding="utf-8")
    defined: dict[str, Any] = {"__name__": f"example_{Path(document).stem}"}
    for kind, name, block in BLOCK.findall(text):
        if name:
            Path(name).write_text(block, encoding="utf-8")
            continue
        before = text[: text.index(block)].count("\n")
        exec(compile("\n" * before + block, document, "exec"), defined)
        if kind == "run: app":
            run_app(defined["app"], defined["config"])
    return defined


def run_app(app: Any, config: fedstill.Config) -> None:
    with LocalGrid(num_nodes=config.federation.num_nodes, run_config=flatten(config)) as grid:
        context = Context(
            run_id=grid.run.run_id, node_id=0, node_config={}, state=RecordDict(), run_config={}
        )
        app(grid, context)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(TINY, encoding="utf-8")
    return tmp_path


def test_examples_of_the_readme_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    defined = run_examples("README.md")
    assert len(defined["run"].nodes) == 2
    printed = capsys.readouterr().out
    assert re.search(r"^node-0001 0\.\d+$", printed, re.MULTILINE)


def test_examples_from_python_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    defined = run_examples("docs/from-python.md")
    assert len(defined["frames"].nodes) == 2
    assert "node-0001" in capsys.readouterr().out


def test_examples_of_things_of_ones_own_run(folder: Path) -> None:
    defined = run_examples("docs/own.md")
    assert defined["run"].nodes[0].family == "mine:student"
    assert defined["run"].config.federation.aggregator == "rules:aggregate"


def test_a_page_shows_the_strategy_as_the_readme_runs_it() -> None:
    (app,) = [
        block for kind, _, block in BLOCK.findall((ROOT / "README.md").read_text()) if kind == "run: app"
    ]
    assert app in (ROOT / "docs" / "from-python.md").read_text(encoding="utf-8")


def test_every_python_block_of_a_page_compiles() -> None:
    for document in ("README.md", *(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))):
        text = (ROOT / document).read_text(encoding="utf-8")
        for block in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            compile(block, document, "exec")
