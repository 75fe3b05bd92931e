"""The Flower ServerApp: opens the run folder, starts what nodes and Prometheus talk to, runs."""

from __future__ import annotations

import errno
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedstill.common.certificates import is_loopback
from fedstill.common.config import Config, from_run_config, list_references, load_config, to_toml
from fedstill.common.errors import RunError, UsageError
from fedstill.common.files import write_text_atomically
from fedstill.common.modules import BUNDLE_FOLDER, confined_to_bundle, copy_files
from fedstill.server.display.progress import make_progress
from fedstill.server.federation.coordinator import Run, run_federation
from fedstill.server.labels import LabelService, LabelStore
from fedstill.server.labels.access import ACCESS_FILE
from fedstill.server.metrics import (
    MetricsEndpoint,
    RunMetrics,
    watch_actors,
    watch_certificates,
    watch_run_folder,
)
from fedstill.server.run.events import Observer, RunStarted, Warned, broadcast
from fedstill.server.run.logs import open_log
from fedstill.server.run.state import (
    LOCK_FILE,
    STATE_FILE,
    FederationState,
    commit_state,
    hold_folder,
    load_state,
    sweep,
)
from fedstill.server.run.stderr import keep_stderr

RUNS_DIR = Path("runs")


def name_run(config: Config) -> str:
    """Makes up a run id that no other run has, sorted by time."""
    source = Path(config.data.source).name.split(".")[0] or "data"
    plain, scheme = (
        "".join(letter if letter.isalnum() else "-" for letter in name)[:32]
        for name in (source, config.federation.scheme)
    )
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return f"{stamp}-{plain}-{scheme}-{secrets.token_hex(2)}"


@contextmanager
def open_run(
    config: Config, *, run_dir: Path | None, resume: bool, run_id: str = ""
) -> Iterator[tuple[Path, FederationState]]:
    """Makes a run folder, or opens one to go on from its last committed round, and holds it.

    Args:
        config: The run's configuration.
        run_dir: The folder; None is `runs/<run_id>`.
        resume: Go on instead of beginning.
        run_id: Name of a new run; empty makes one up.

    Yields:
        The folder and the state to begin from.

    Raises:
        UsageError: The folder holds a run already, or none to resume, or another
            coordinator works in it.
        RunError: Its disk is full; the run can be resumed.
    """
    run_id = run_id or name_run(config)
    folder = RUNS_DIR / run_id if run_dir is None else run_dir
    # Looked at before the lock, which is a file too: a stranger's folder stays as it was.
    check = load_state if resume else _check_unused
    check(folder)
    with _full_disk_explained(folder), hold_folder(folder):
        check(folder)
        if resume:
            state = load_state(folder)
            state = state.model_copy(update={"num_resumes": state.num_resumes + 1})
            sweep(folder)
        else:
            state = FederationState(run_id=run_id)
        with _undone_on_mistake(folder, state):
            if not resume:
                write_text_atomically(folder / "config.toml", to_toml(config))
                copy_files(list_references(config), folder / BUNDLE_FOLDER)  # resumed wherever it is
            commit_state(state, folder)
            yield folder, state


def _check_unused(folder: Path) -> None:
    if not folder.exists() or all(path.name == LOCK_FILE for path in folder.iterdir()):
        return
    if (folder / STATE_FILE).exists():
        raise UsageError(f"{folder} holds a run already: choose an empty folder, or --resume {folder}")
    raise UsageError(f"{folder} holds files already: choose an empty folder")


def load_run_config(run_dir: Path) -> Config:
    """Reads the configuration that a run folder was begun with.

    Raises:
        UsageError: The folder holds no run, or one that ended before it began.
    """
    load_state(run_dir)  # says what lacks where a run ended before it began
    return load_config(run_dir / "config.toml")


@contextmanager
def _undone_on_mistake(run_dir: Path, state: FederationState) -> Iterator[None]:
    # A user's mistake that shows before the first round leaves nothing behind, nor does a run without state.
    try:
        yield
    except (UsageError, OSError) as error:
        is_mistake = isinstance(error, UsageError) and state.round == 0 and not state.num_resumes
        if is_mistake or not (run_dir / STATE_FILE).exists():
            shutil.rmtree(run_dir, ignore_errors=True)
        raise


@contextmanager
def _full_disk_explained(run_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        how = f"go on with --resume {run_dir}" if (run_dir / STATE_FILE).exists() else "begin again"
        raise RunError(f"no space left for {run_dir}: free some, then {how}") from None


@contextmanager
def serve_run(
    config: Config, run_dir: Path, run_id: str, observe: Observer, grid: Grid | None = None
) -> Iterator[tuple[str, Observer]]:
    """Starts log, label service and metrics endpoint for as long as a run lives.

    Args:
        config: The run's configuration.
        run_dir: The run folder.
        run_id: Only this run's uploads are taken.
        observe: The observer to join.
        grid: The grid, for those of its figures that are metrics.

    Yields:
        The address that nodes are told, and an observer that feeds log and metrics too.

    Raises:
        UsageError: A configured port is taken.
    """
    metrics = RunMetrics(max_node_series=config.monitoring.max_node_series, run_id=run_id)
    watch_run_folder(metrics, run_dir)
    watch_actors(metrics, grid)
    log = open_log(run_dir)
    joined = broadcast([metrics, log, observe])
    certificates = Path(config.exchange.certificates_dir) if config.exchange.certificates_dir else None
    if certificates is not None:
        watch_certificates(metrics, certificates)
    service = LabelService(
        LabelStore(run_dir / "labels"),
        host=config.exchange.host,
        port=config.exchange.port,
        uploads_dir=run_dir / "nodes",
        run_id=run_id,
        certificates_dir=certificates,
        access_file=run_dir / ACCESS_FILE,
        allow_insecure=config.exchange.allow_insecure,
        on_call=metrics.observe_call,
        on_refuse=broadcast([metrics, log]),
    )
    with ExitStack() as stack:
        if certificates is not None:
            stack.enter_context(keep_stderr(run_dir))
        stack.enter_context(closing(log))
        stack.enter_context(service)
        stack.enter_context(_serve_metrics(config, run_dir, metrics))
        if certificates is None and not is_loopback(config.exchange.host):
            joined(Warned("labels travel in plaintext to other machines, as exchange.allow_insecure wants"))
        yield _advertised(config, service.address), joined


@contextmanager
def _serve_metrics(config: Config, run_dir: Path, metrics: RunMetrics) -> Iterator[None]:
    monitoring = config.monitoring
    if not monitoring.enabled:
        yield
        return
    endpoint = MetricsEndpoint(
        metrics,
        host=monitoring.host,
        port=monitoring.port,
        targets_dir=Path(monitoring.targets_dir) if monitoring.targets_dir else None,
    )
    endpoint.start()
    try:
        write_text_atomically(run_dir / "metrics.address", f"{endpoint.address}\n")
        yield
    finally:
        endpoint.stop()
        (run_dir / "metrics.address").unlink(missing_ok=True)
        with suppress(OSError):  # what ended the run, a full disk perhaps, is the news
            metrics.write(run_dir / "metrics.txt")


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
            joined(
                RunStarted(
                    run_id=state.run_id,
                    scheme=config.federation.scheme,
                    dataset=config.data.source,
                    num_nodes=config.federation.num_nodes,
                    num_rounds=config.federation.last_round,
                    run_dir=str(run_dir),
                    codec=config.exchange.codec,
                    temperature=config.distill.temperature,
                    distill_lambda=config.distill.lambda_,
                    quorum=config.federation.quorum,
                    deadline_seconds=config.federation.deadline_seconds,
                )
            )
            run_federation(grid, Run(config, run_dir, state, address, joined))

    return server_app


app = make_app()
