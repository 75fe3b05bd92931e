"""What lives beside a run: its log, its label service and its metrics endpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from flwr.serverapp import Grid

from fedstill.common.certificates import is_loopback
from fedstill.common.config import Config
from fedstill.common.files import write_text_atomically
from fedstill.server.federation.preparation import Run
from fedstill.server.labels import LabelService, LabelStore
from fedstill.server.labels.access import ACCESS_FILE
from fedstill.server.metrics import (
    MetricsEndpoint,
    RunMetrics,
    watch_actors,
    watch_certificates,
    watch_run_folder,
)
from fedstill.server.run.events import Observer, RunStarted, ScrapeAwaited, Warned, broadcast
from fedstill.server.run.logs import open_log
from fedstill.server.run.stderr import keep_stderr
from fedstill.server.schemes import get_scheme

SCRAPE_SECONDS = 30.0
"""So long the last figures of a run wait for Prometheus; twice its slower beat."""


def announce_run(run: Run) -> RunStarted:
    """Says what a run begins with."""
    config = run.config
    federation = config.federation
    return RunStarted(
        run_id=run.state.run_id,
        scheme=federation.scheme,
        dataset=config.data.source,
        num_nodes=federation.num_nodes,
        num_rounds=get_scheme(federation.scheme).last_round(federation.num_rounds),
        run_dir=str(run.run_dir),
        codec=config.exchange.codec,
        temperature=config.distill.temperature,
        distill_lambda=config.distill.lambda_,
        quorum=federation.quorum,
        deadline_seconds=federation.deadline_seconds,
    )


@contextmanager
def serve_run(
    config: Config, run_dir: Path, run_id: str, observe: Observer, grid: Grid | None = None
) -> Iterator[tuple[str, Observer]]:
    """Starts log, label service and metrics endpoint for as long as a run lives.

    Where `monitoring.targets_dir` announces the endpoint, both stay after a run that was done until
    Prometheus has scraped its last figures, or for `SCRAPE_SECONDS`; Ctrl-C ends this wait alone.

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
        stack.enter_context(_serve_metrics(config, run_dir, metrics, joined))
        if certificates is None and not is_loopback(config.exchange.host):
            joined(Warned("labels travel in plaintext to other machines, as exchange.allow_insecure wants"))
        yield _advertised(config, service.address), joined


@contextmanager
def _serve_metrics(config: Config, run_dir: Path, metrics: RunMetrics, observe: Observer) -> Iterator[None]:
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
        if monitoring.targets_dir:
            with suppress(KeyboardInterrupt):  # the run itself is done
                observe(ScrapeAwaited(SCRAPE_SECONDS))
                endpoint.await_scrape(SCRAPE_SECONDS)
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
