"""What lies in a comparison's folder already: what may be kept, gone on with, or must not be touched.

OUTPUT/comparison.json, comparison.html, config.toml (shared by all runs);
runs/<slug>/ (run folders), configs/<slug>.toml (what each was told), logs/<slug>.log (what it said),
homes/<slug>/ (label cache and node store of a run that is not finished).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from fedstill.common.config import Config, flatten, load_config
from fedstill.common.errors import ConfigError, DataError, UsageError
from fedstill.server.compare.plan import Plan, format_scalar
from fedstill.server.compare.records import COMPARISON_FILE, read_comparison
from fedstill.server.run.state import load_state
from fedstill.server.run.summary import Summary, read_summary

Found = Literal["nothing", "begun", "finished"]


def run_folder(output_dir: Path, slug: str) -> Path:
    """Says where a run lives."""
    return output_dir / "runs" / slug


def check_folder(plan: Plan, output_dir: Path) -> None:
    """Makes sure that a comparison may write into a folder; changes nothing.

    Args:
        plan: What shall run.
        output_dir: The folder; it may be missing.

    Raises:
        UsageError: It holds something else, or one of the runs with another configuration.
    """
    if not output_dir.exists():
        return
    if not output_dir.is_dir():
        raise UsageError(f"--output-dir: {output_dir} is a file; expected a folder")
    if any(output_dir.iterdir()):
        try:
            read_comparison(output_dir)
        except DataError:
            raise UsageError(
                f"{output_dir} holds files and no {COMPARISON_FILE} of this version; choose an empty"
                " --output-dir"
            ) from None
    for run in plan.runs:
        inspect_run(run_folder(output_dir, run.slug), run.config)


def inspect_run(run_dir: Path, wanted: Config) -> Found:
    """Says how far a run has come.

    Args:
        run_dir: Its folder; it may be missing.
        wanted: The configuration that it should have.

    Returns:
        "finished" with a valid summary, "begun" with a state to resume from, else "nothing".

    Raises:
        UsageError: The folder holds a run with another configuration.
    """
    path = run_dir / "config.toml"
    if not path.exists():
        return "nothing"
    try:
        found = load_config(path)
    except ConfigError as error:
        raise UsageError(f"{path} is of another version ({error}); choose another --output-dir") from None
    if found != wanted:
        theirs, ours = flatten(found), flatten(wanted)
        key = next(key for key in ours if theirs[key] != ours[key])
        raise UsageError(
            f"{run_dir} was run with {key} = {format_scalar(theirs[key])}, now asked for with"
            f" {format_scalar(ours[key])}; choose another --output-dir or remove it"
        )
    if read_finished(run_dir) is not None:
        return "finished"
    try:
        load_state(run_dir)
    except DataError:
        return "nothing"
    return "begun"


def read_finished(run_dir: Path) -> Summary | None:
    """Reads a run's summary; None where it has no valid one."""
    try:
        return read_summary(run_dir)
    except DataError:
        return None
