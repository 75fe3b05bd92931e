"""The Flower ServerApp: opens the run folder, starts what nodes and Prometheus talk to, runs."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.config import Config, from_run_config, load_config, to_toml
from common.errors import UsageError
from common.files import write_text_atomically
from server.checkpoints import STATE_FILE, FederationState, commit_state, load_state
from server.coordinator import Run, run_federation
from server.events import Observer, RunStarted, broadcast
from server.labels import LabelService, LabelStore
from server.metrics import MetricsEndpoint, RunMetrics
from server.progress import make_progress

RUNS_DIR = Path("runs")


def name_run(config: Config) -> str:
    """Makes up a run id that no other run has, sorted by time."""
    source = Path(config.data.source).name.split(".")[0] or "data"
    plain = "".join(letter if letter.isalnum() else "-" for letter in source)[:32]
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return f"{stamp}-{plain}-{config.federation.scheme}-{secrets.token_hex(2)}"


def open_run(
    config: Config, *, run_dir: Path | None, resume: bool, run_id: str = ""
) -> tuple[Path, FederationState]:
    """Makes a run folder, or opens one to go on from its last committed round.

    Args:
        config: The run's configuration.
        run_dir: The folder; None is `runs/<run_id>`.
        resume: Go on instead of beginning.
        run_id: Name of a new run; empty makes one up.

    Returns:
        The folder and the state to begin from.

    Raises:
        UsageError: The folder holds a run already, or none to resume.
    """
    if resume:
        if run_dir is None:
            raise UsageError("expected the folder of the run to resume")
        state = load_state(run_dir)
        return run_dir, state.model_copy(update={"num_resumes": state.num_resumes + 1, "stopped_because": ""})
    run_id = run_id or name_run(config)
    folder = RUNS_DIR / run_id if run_dir is None else run_dir
    if folder.exists() and any(folder.iterdir()):
        what = "a run" if (folder / STATE_FILE).exists() else "files"
        raise UsageError(f"{folder} holds {what} already: choose an empty folder, or --resume {folder}")
    state = FederationState(run_id=run_id)
    write_text_atomically(folder / "config.toml", to_toml(config))
    commit_state(state, folder)
    return folder, state


def load_run_config(run_dir: Path) -> Config:
    """Reads the configuration that a run folder was begun with."""
    return load_config(run_dir / "config.toml")


@contextmanager
def _undone_on_mistake(run_dir: Path, state: FederationState) -> Iterator[None]:
    # A user's mistake that shows before the first round leaves nothing behind.
    try:
        yield
    except UsageError:
        if state.round == 0 and not state.num_resumes:
            shutil.rmtree(run_dir, ignore_errors=True)
        raise


@contextmanager
def serve_run(
    config: Config, run_dir: Path, run_id: str, observe: Observer
) -> Iterator[tuple[str, Observer]]:
    """Starts label service and metrics endpoint for as long as a run lives.

    Args:
        config: The run's configuration.
        run_dir: The run folder.
        run_id: Only this run's uploads are taken.
        observe: The observer to join.

    Yields:
        The address that nodes are told, and an observer that feeds the metrics too.

    Raises:
        UsageError: A configured port is taken.
    """
    metrics = RunMetrics(max_node_series=config.monitoring.max_node_series)
    service = LabelService(
        LabelStore(run_dir / "labels"),
        host=config.exchange.host,
        port=config.exchange.port,
        uploads_dir=run_dir / "nodes",
        run_id=run_id,
        on_call=metrics.observe_call,
    )
    with service:
        address = _advertised(config, service.address)
        if not config.monitoring.enabled:
            yield address, observe
            return
        endpoint = MetricsEndpoint(metrics, host=config.monitoring.host, port=config.monitoring.port)
        endpoint.start()
        try:
            write_text_atomically(run_dir / "metrics.address", f"{endpoint.address}\n")
            yield address, broadcast([metrics, observe])
        finally:
            endpoint.stop()
            (run_dir / "metrics.address").unlink(missing_ok=True)


def _advertised(config: Config, bound: str) -> str:
    wanted = config.exchange.advertise_address
    if not wanted:
        return bound
    return (
        wanted
        if wanted.rpartition(":")[2].isdigit() and ":" in wanted
        else f"{wanted}:{bound.rpartition(':')[2]}"
    )


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
        run_dir, state = open_run(config, **_launch_options(context.run_config))
        with _undone_on_mistake(run_dir, state), ExitStack() as stack:
            if observers is None:
                watching: Sequence[Observer] = [stack.enter_context(closing(make_progress(json_mode=False)))]
            else:
                watching = observers
            address, joined = stack.enter_context(
                serve_run(config, run_dir, state.run_id, broadcast(watching))
            )
            joined(
                RunStarted(
                    run_id=state.run_id,
                    scheme=config.federation.scheme,
                    dataset=config.data.source,
                    num_nodes=config.federation.num_nodes,
                    num_rounds=config.federation.num_rounds,
                    run_dir=str(run_dir),
                )
            )
            run_federation(grid, Run(config, run_dir, state, address, joined))

    return server_app


app = make_app()
