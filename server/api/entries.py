"""The entries: simulate, compare, compress, plan."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedstill.common.config import Config, DataConfig, flatten
from fedstill.common.errors import UsageError
from fedstill.common.modules import BUNDLE_FOLDER
from fedstill.server.api.own import lend_model
from fedstill.server.api.results import Run, read_run
from fedstill.server.api.settings import Data, Settings, keep_data, looking_beside, read_settings, settle
from fedstill.server.commands.plan import DevicePlan, plan_device
from fedstill.server.compare import Comparison, default_output, make_display, make_plan
from fedstill.server.compare import compare as run_comparison
from fedstill.server.compress import Budget, Front, Request, compress_model
from fedstill.server.display.progress import make_progress
from fedstill.server.run.events import Observer
from fedstill.server.run.folder import RUNS_DIR, find_run, load_run_config, name_run
from fedstill.server.simulate import simulate as run_simulation

# Flower keeps the identity of a run in its process.
_ONE_RUN = threading.Lock()


@contextmanager
def _alone() -> Iterator[None]:
    if not _ONE_RUN.acquire(blocking=False):
        raise UsageError("a run is under way in this process: one after the other, or each in a process")
    try:
        yield
    finally:
        _ONE_RUN.release()


def simulate(
    config: Settings = None,
    *,
    data: Data | None = None,
    teacher: Any = None,
    student: Any = None,
    overrides: Mapping[str, Any] | None = None,
    run_dir: str | Path | None = None,
    resume: str | Path | None = None,
    grid: str = "auto",
    ray_address: str | None = None,
    progress: bool = True,
    observe: Observer | None = None,
) -> Run:
    """Runs a federation of virtual nodes to its end.

    Args:
        config: A `Config`, a dict of keys (nested or dotted), the path of a TOML file; None is the
            embedded default.
        data: A source as `data.source` has it, arrays by the names of an .npz, (x, y), (x_train,
            y_train, x_test, y_test), or a pandas frame.
        teacher: A trained torch module, which is held; or a function of (spec, num_classes).
        student: A torch module that every node begins with a copy of; a function of (spec, *,
            num_classes, width); or a list of these for nodes in turn.
        overrides: Keys over the configuration.
        run_dir: Folder that the run fills; None is `runs/<run_id>`.
        resume: Run id or folder of a run to go on with, by its own configuration.
        grid: "ray", "local" for this process alone, or "auto": Ray, unless the student lives in
            this process only, as one of a notebook does.
        ray_address: An existing Ray cluster; None starts one here, or takes the one that this process
            is connected to.
        progress: Show how far it is, on standard error.
        observe: Told of everything that happens: see `fedstill.events`.

    Returns:
        The finished run.

    Raises:
        UsageError: Configuration, data, models or folder are wrong.
        RunError: The federation could not go on.
        KeyboardInterrupt: It was stopped; `resume` goes on with it.
    """
    if resume is not None:
        if not (config is data is teacher is student is overrides is None):
            raise UsageError("resume goes on with the run's own configuration: leave the others out")
        run_dir = find_run(resume)
        config = load_run_config(run_dir)
    with (
        _alone(),
        settle(config, data=data, teacher=teacher, student=student, overrides=overrides) as (
            settings,
            is_bound,
        ),
    ):
        run_id = "" if resume is not None else name_run(settings)
        folder = RUNS_DIR / run_id if run_dir is None else Path(run_dir)
        display = make_progress(json_mode=not progress, log=settings.monitoring.log)
        try:
            run_simulation(
                settings,
                run_dir=folder,
                run_id=run_id,
                resume=resume is not None,
                grid_name=_choose_grid(grid, is_bound=is_bound),
                ray_address=ray_address,
                observers=[display, *([observe] if observe is not None else [])],
                module_folders=[folder / BUNDLE_FOLDER],
            )
        finally:
            display.close()
    return read_run(folder)


def _choose_grid(grid: str, *, is_bound: bool) -> str:
    if grid == "auto":
        return "local" if is_bound else "ray"
    if grid == "ray" and is_bound:
        raise UsageError(
            "the student was made in this process and Ray's could not import it: put it into a module, or"
            " take grid='local'"
        )
    return grid


def compare(
    config: Settings = None,
    *,
    schemes: Sequence[str] | str,
    seeds: Sequence[int] = (0, 1, 2),
    sweep: Mapping[str, Sequence[Any]] | None = None,
    data: Data | None = None,
    overrides: Mapping[str, Any] | None = None,
    output_dir: str | Path | None = None,
    jobs: int | None = None,
    grid: str = "local",
) -> Comparison:
    """Runs several schemes over the same partitions and says what the seeds' spread allows.

    Args:
        config: As for `simulate`.
        schemes: Names of schemes.
        seeds: Seeds; each gives other partitions.
        sweep: Values to vary, by key.
        data: As for `simulate`.
        overrides: Keys over the configuration.
        output_dir: Folder that is filled or gone on with; None is `runs/compare-<name>`.
        jobs: Runs side by side; None is what the cores carry.
        grid: "local", one core per run, or "ray".

    Returns:
        The comparison; its page is in the folder.

    Raises:
        UsageError: Configuration, data or folder are wrong; nothing was run.
        KeyboardInterrupt: It was stopped; the same call goes on from there.
    """
    path = Path(config) if isinstance(config, str | Path) else None
    settings = read_settings(config, overrides)
    given = _as_overrides(settings, base=read_settings(path))
    if data is not None:
        source = keep_data(data, label_column=settings.data.label_column)
        given.append(f"data.source={json.dumps(source)}")
    with looking_beside(config):
        plan_ = make_plan(
            path,
            schemes=schemes if isinstance(schemes, str) else ",".join(schemes),
            seeds=",".join(map(str, seeds)),
            sweeps=[f"{key}={','.join(map(str, values))}" for key, values in (sweep or {}).items()],
            overrides=given,
        )
        folder = default_output(path) if output_dir is None else Path(output_dir)
        display = make_display(plan_)
        try:
            return run_comparison(plan_, output_dir=folder, jobs=jobs, grid_name=grid, display=display)
        finally:
            display.close()


def _as_overrides(settings: Config, *, base: Config) -> list[str]:
    """Writes what differs as `--set` takes it; seeds and schemes are the comparison's own."""
    before = flatten(base)
    return [
        f"{key}={json.dumps(value)}"
        for key, value in flatten(settings).items()
        if value != before[key] and key not in ("seed", "federation.scheme")
    ]


def compress(
    model: Any,
    *,
    data: Data,
    plans: Sequence[str] = (),
    output_dir: str | Path = "compressed",
    family: str = "auto",
    width: float = 1.0,
    budget: Budget | None = None,
    label_column: str = "label",
    seed: int = 0,
    num_threads: int = 2,
    progress: bool = True,
) -> Front:
    """Compresses a model in several ways, measures each artefact, and says which nothing else beats.

    Args:
        model: A torch module; a function of (spec, num_classes) that makes one; or, as for the command, a
            checkpoint, an .onnx file or `module:function`.
        data: Labelled data, as for `simulate`.
        plans: As "prune=0.5,bits=8"; none: a grid.
        output_dir: Folder that is filled or gone on with.
        family: Family of a checkpoint, or of what an ONNX file teaches.
        width: Width of that family.
        budget: What each plan, and the control, is trained for.
        label_column: Column of a table that holds the class.
        seed: Of cuts and training.
        num_threads: Threads of training; latencies are of one.
        progress: Say how far it is, on standard error.

    Returns:
        The front, with the control beside it.

    Raises:
        UsageError: Model, data, plans or folder are wrong.
    """
    request = Request(
        lend_model(model),
        DataConfig(source=keep_data(data, label_column=label_column), label_column=label_column),
        Path(output_dir),
        tuple(plans),
        family,
        width,
        budget or Budget(),
        seed=seed,
        num_threads=num_threads,
    )
    return compress_model(request, say=_say if progress else _say_nothing)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _say_nothing(line: str) -> None:
    del line


def plan(
    config: Settings = None,
    *,
    device: str | Path,
    overrides: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> DevicePlan:
    """Chooses student, compression and codec for a device, and says of every other candidate why not.

    Args:
        config: As for `simulate`.
        device: A shipped device profile, as "pi-4", or a path to one.
        overrides: Keys over the configuration.
        progress: Show how far it is.

    Returns:
        The plan; its choice is empty where nothing fits.

    Raises:
        UsageError: Configuration, data or profile are wrong.
    """
    with settle(config, overrides=overrides) as (settings, _):
        display = make_progress(json_mode=not progress)
        try:
            return plan_device(settings, str(device), display)
        finally:
            display.close()
