"""Launches a federation of virtual nodes: here, or on a Ray cluster."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flwr.app import Context, RecordDict
from rich.console import Console

from fedstill.common.compressors.exporters import EXPORTERS
from fedstill.common.config import Config, build_config, flatten, list_references
from fedstill.common.console import ended_by_sigterm
from fedstill.common.datasets import DATASETS, absolute_source
from fedstill.common.errors import UsageError
from fedstill.common.modules import BUNDLE_FOLDER, VARIABLE, copy_files, looking_in
from fedstill.common.partitioners import PARTITIONERS
from fedstill.common.registry import Registry
from fedstill.common.training import choose_device
from fedstill.server.display.progress import make_progress, print_summary
from fedstill.server.grids import ActorNeeds, LocalGrid, RayGrid
from fedstill.server.run.events import Event, Observer, RunFinished
from fedstill.server.run.state import STATE_FILE
from fedstill.server.run.summary import Summary, read_summary

CLIENT_APP = "fedstill.clients.app:app"
# Nodes of a round that a process trains side by side at most; what they learn does not depend on it.
MAX_TOGETHER = 64


def simulate(
    config: Config,
    *,
    run_dir: Path,
    run_id: str = "",
    resume: bool = False,
    grid_name: str = "ray",
    ray_address: str | None = None,
    observers: Sequence[Observer] = (),
    module_folders: Sequence[Path] = (),
) -> Summary:
    """Runs a federation of virtual nodes.

    Args:
        config: The run's configuration.
        run_dir: Folder that the run fills or goes on in.
        run_id: Name of a new run; empty makes one up.
        resume: Go on from the last committed round.
        grid_name: "ray" for persistent Ray actors, "local" for this process alone.
        ray_address: An existing Ray cluster; None starts one here and ends it.
        observers: Told of everything that happens.
        module_folders: Where `module:function` is looked up besides the working directory.

    Returns:
        The run's summary.

    Raises:
        UsageError: Configuration, data or folder are wrong.
        RunError: The federation could not go on.
    """
    from fedstill.server.app import make_app

    with looking_in(*module_folders):
        if grid_name == "ray":
            config = _make_portable(config)
        run_config = flatten(config) | {
            "run.dir": str(run_dir),
            "run.id": run_id,
            "run.resume": resume,
            "data.source": absolute_source(config.data.source),
        }
        with _open_grid(config, grid_name, ray_address, run_config) as grid:
            context = Context(
                run_id=grid.run.run_id, node_id=0, node_config={}, state=RecordDict(), run_config=run_config
            )
            make_app(observers)(grid, context)
    return read_summary(run_dir)


def simulate_and_show(
    config: Config,
    *,
    run_dir: Path,
    run_id: str,
    resume: bool,
    grid_name: str,
    ray_address: str | None,
    as_json: bool,
) -> None:
    """Runs a federation as the command does: with progress, its results at the end, and word of how to go on.

    Args:
        config: The run's configuration.
        run_dir: Folder that the run fills or goes on in.
        run_id: Name of a new run.
        resume: Go on from the last committed round.
        grid_name: As for `simulate`.
        ray_address: As for `simulate`.
        as_json: Print the summary as JSON and nothing else.

    Raises:
        UsageError: Configuration, data or folder are wrong.
        RunError: The federation could not go on.
        KeyboardInterrupt: It was stopped, by SIGTERM too.
    """
    progress = make_progress(json_mode=as_json, log=config.monitoring.log)

    def show_results(event: Event) -> None:
        # What comes after it, as a wait for Prometheus, is not the run.
        if not isinstance(event, RunFinished):
            return
        progress.close()
        if as_json:
            sys.stdout.write((run_dir / "summary.json").read_text(encoding="utf-8"))
            sys.stdout.flush()
        else:
            print_summary(read_summary(run_dir), run_dir, run_dir / "report.html", Console(highlight=False))

    try:
        with ended_by_sigterm():
            simulate(
                config,
                run_dir=run_dir,
                run_id=run_id,
                resume=resume,
                grid_name=grid_name,
                ray_address=ray_address,
                observers=[progress, show_results],
                module_folders=[run_dir / BUNDLE_FOLDER],
            )
    except (KeyboardInterrupt, SystemExit):  # the latter is what Ray makes of SIGTERM
        progress.close()
        if (run_dir / STATE_FILE).exists():
            sys.stderr.write(f"go on with: fedstill simulate --resume {shlex.quote(str(run_dir))}\n")
        raise KeyboardInterrupt from None
    finally:
        progress.close()


def _make_portable(config: Config) -> Config:
    """Names what this process registered by module and function, as other processes find it."""
    values = flatten(config)
    for key, registries in _travelling().items():
        text = str(values[key])
        names = [name.strip() for name in text.split(",")] if key == "student.model" else [text]
        for registry in registries:
            names = [registry.reference(name) for name in names]
        values[key] = ",".join(names)
    return build_config(values)


def _travelling() -> dict[str, tuple[Registry[Any], ...]]:
    # Here, since they import torch: `fedstill --help` should not.
    from fedstill.common.codecs import CODECS
    from fedstill.common.losses import FEATURE_LOSSES, LOSSES
    from fedstill.common.models import MODELS
    from fedstill.server.schemes import SCHEMES

    return {
        "data.source": (DATASETS,),
        "student.model": (MODELS,),
        "distill.loss": (LOSSES, FEATURE_LOSSES),
        "compress.runtime": (EXPORTERS,),
        "federation.scheme": (SCHEMES,),
        "federation.partitioner": (PARTITIONERS,),
        "exchange.codec": (CODECS,),
    }


@contextmanager
def _shipment(config: Config, ray_address: str | None) -> Iterator[tuple[dict[str, str], Path | None]]:
    """Says where actors look for the user's modules: where they are, or in a folder that Ray sends along."""
    if ray_address is None or not list_references(config):
        yield {VARIABLE: os.environ[VARIABLE]}, None
        return
    with TemporaryDirectory() as folder:
        copy_files(list_references(config), Path(folder))
        yield {VARIABLE: os.curdir}, Path(folder)  # an actor's working directory is what was sent


@contextmanager
def _open_grid(
    config: Config, grid_name: str, ray_address: str | None, run_config: dict[str, bool | int | float | str]
) -> Iterator[LocalGrid | RayGrid]:
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    federation = config.federation
    max_together = 0 if federation.cohort == "off" else MAX_TOGETHER
    if grid_name == "local":
        choose_device(federation.device, key="federation.device")
        with LocalGrid(
            CLIENT_APP, num_nodes=federation.num_nodes, run_config=run_config, max_together=max_together
        ) as local_grid:
            yield local_grid
        return
    if grid_name != "ray":
        raise UsageError(f"expected a grid of ray or local, got {grid_name!r}")
    if federation.device == "cuda" and not federation.gpus_per_node:
        raise UsageError(
            "federation.device is cuda: say how much of a GPU a node takes, federation.gpus_per_node"
        )
    needs = ActorNeeds(
        federation.cpus_per_node,
        federation.gpus_per_node,
        federation.memory_bytes_per_node,
        tuple(name.strip() for name in federation.node_resources.split(",") if name.strip()),
    )
    with (
        _shipment(config, ray_address) as (environment, working_dir),
        RayGrid(
            CLIENT_APP,
            num_nodes=federation.num_nodes,
            run_config=run_config,
            num_actors=federation.num_actors,
            ray_address=ray_address,
            needs=needs,
            working_dir=working_dir,
            environment=environment,
            max_together=max_together,
        ) as grid,
    ):
        yield grid
