"""FedDistill in a ServerApp of one's own, as its docstring says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedstill.common.config import flatten, load_config
from fedstill.common.errors import UsageError
from fedstill.server.federation.strategy import FedDistill
from fedstill.server.grids import LocalGrid

QUICK = (
    "teacher.num_epochs=4",
    "distill.num_epochs=2",
    "federation.num_nodes=2",
    "federation.num_rounds=1",
    "monitoring.quality_nodes=0",
)


def test_a_strategy_is_prepared_in_one_call_and_runs_to_its_end(tmp_path: Path) -> None:
    config, accuracies = load_config(overrides=QUICK), []
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = FedDistill.prepare(config, run_dir=tmp_path / "run")
        strategy.start(grid)
        for node in strategy.state.nodes.values():
            assert node.report is not None
            accuracies.append(node.report.accuracy)

    with LocalGrid(num_nodes=2, run_config=flatten(config)) as grid:
        context = Context(
            run_id=grid.run.run_id, node_id=0, node_config={}, state=RecordDict(), run_config={}
        )
        app(grid, context)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [node["accuracy"] for node in summary["nodes"]] == accuracies
    assert len(accuracies) == 2


def test_a_prepared_strategy_lets_go_of_its_folder(tmp_path: Path) -> None:
    config = load_config(overrides=QUICK)
    strategy = FedDistill.prepare(config, run_dir=tmp_path / "run")
    with pytest.raises(UsageError, match="another coordinator"):
        FedDistill.prepare(config, run_dir=tmp_path / "run", resume=True)
    strategy.close()
    FedDistill.prepare(config, run_dir=tmp_path / "run", resume=True).close()
