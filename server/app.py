"""The Flower ServerApp: opens the run folder, starts what nodes and Prometheus talk to, runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedstill.common.config import from_run_config
from fedstill.common.modules import confined_to_bundle
from fedstill.server.display.progress import make_progress
from fedstill.server.federation.preparation import Run
from fedstill.server.federation.serving import serve_run
from fedstill.server.federation.strategy import FedDistill
from fedstill.server.run.events import Observer, broadcast
from fedstill.server.run.folder import open_run


def _launch_options(run_config: Mapping[str, Any]) -> dict[str, Any]:
    folder = str(run_config.get("run.dir", ""))
    return {
        "run_dir": Path(folder) if folder else None,
        "resume": bool(run_config.get("run.resume", False)),
        "run_id": str(run_config.get("run.id", "")),
    }


def make_app(observers: Sequence[Observer] | None = None) -> ServerApp:
    """Builds the ServerApp.

    Args:
        observers: Told of everything that happens; None prints plain lines.

    Returns:
        An app for any of Flower's or our grids.
    """
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        config = from_run_config(context.run_config)
        with ExitStack() as stack:
            stack.enter_context(confined_to_bundle())  # where Flower runs it; a command says where to look
            run_dir, state = stack.enter_context(open_run(config, **_launch_options(context.run_config)))
            if observers is None:
                watching: Sequence[Observer] = [
                    stack.enter_context(closing(make_progress(json_mode=False, log=config.monitoring.log)))
                ]
            else:
                watching = observers
            address, joined = stack.enter_context(
                serve_run(config, run_dir, state.run_id, broadcast(watching), grid)
            )
            run = Run(config, run_dir, state, address, joined)
            strategy = stack.enter_context(FedDistill.open(run))
            strategy.start(grid)

    return server_app


app = make_app()
