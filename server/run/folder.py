"""The folder of a run: made, held by one coordinator, left behind only where one can go on from it."""

from __future__ import annotations

import errno
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedstill.common.config import Config, list_references, load_config, to_toml
from fedstill.common.errors import EXIT_USAGE, FedStillError, RunError, UsageError
from fedstill.common.files import write_text_atomically
from fedstill.common.modules import BUNDLE_FOLDER, copy_files
from fedstill.server.run.state import (
    LOCK_FILE,
    STATE_FILE,
    FederationState,
    commit_state,
    hold_folder,
    load_state,
    sweep,
)

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

    A run that was begun with the same configuration and has committed no round is gone on with:
    nothing that ends a run before its first round blocks the same command.

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
    resume = resume or _was_begun(folder, config)
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
        with _undone_if_worthless(folder, state):
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


def find_run(name: str | Path) -> Path:
    """Finds a run to go on with: a folder as it is, or a run id below `runs/`."""
    return Path(name) if Path(name).is_dir() else RUNS_DIR / name


def load_run_config(run_dir: Path) -> Config:
    """Reads the configuration that a run folder was begun with.

    Raises:
        UsageError: The folder holds no run, or one that ended before it began.
    """
    load_state(run_dir)  # says what lacks where a run ended before it began
    return load_config(run_dir / "config.toml")


def _was_begun(folder: Path, config: Config) -> bool:
    try:
        is_same = (folder / "config.toml").read_text(encoding="utf-8") == to_toml(config)
        return is_same and load_state(folder).round == 0
    except (OSError, ValueError, UsageError):
        return False


@contextmanager
def _undone_if_worthless(run_dir: Path, state: FederationState) -> Iterator[None]:
    # Ray makes a SystemExit of SIGTERM.
    try:
        yield
    except (FedStillError, OSError, KeyboardInterrupt, SystemExit) as error:
        is_mistake = isinstance(error, FedStillError) and error.exit_code == EXIT_USAGE
        is_interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
        is_first = state.round == 0 and not state.num_resumes
        has_teacher = state.exchange.teacher_epochs is not None
        is_worthless = is_first and (is_mistake or (is_interrupted and not has_teacher))
        if is_worthless or not (run_dir / STATE_FILE).exists():
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
