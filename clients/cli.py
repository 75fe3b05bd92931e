"""`fedstill-node`: what runs on a device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.console import exit_with, run_command

cli = typer.Typer(
    name="fedstill-node",
    help="Run a compressed student on this device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@cli.callback()
def _root() -> None:
    """Run a compressed student on this device."""


@cli.command()
def predict(
    artefact: Annotated[Path, typer.Argument(help="folder with model.onnx and manifest.json")],
    data: Annotated[str, typer.Argument(help="file or folder in any supported format, or a built-in name")],
    output: Annotated[Path, typer.Option("--output", "-o", help="CSV to write")],
    split: Annotated[str, typer.Option(help="part of the data: test, train or all")] = "test",
    label_column: Annotated[str, typer.Option(help="column of a CSV that holds the class")] = "label",
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="write class probabilities too")
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="threads that run the model")] = 1,
) -> None:
    """Predict a class for each sample of DATA."""
    from clients.predict import predict_file

    num_samples, accuracy = predict_file(
        artefact,
        data,
        output,
        split=split,
        label_column=label_column,
        with_probabilities=probabilities,
        num_threads=threads,
    )
    known = "" if accuracy is None else f", accuracy {accuracy:.4f} against the labels in the data"
    typer.echo(f"{num_samples} predictions in {output}{known}")


def run() -> int:
    """Runs the command line and returns its exit code."""
    return run_command(cli, name="fedstill-node")


def main() -> None:
    """Entry point of `fedstill-node`."""
    exit_with(run)
