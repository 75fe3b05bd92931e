"""`fedstill-node`: what runs on a device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedstill.common.console import VersionOption, exit_with, run_command
from fedstill.common.errors import EXIT_DONE, EXIT_FAILED, UsageError

cli = typer.Typer(
    name="fedstill-node",
    help="Run a compressed student on this device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@cli.callback()
def _root(_version: VersionOption = False) -> None:
    """Run a compressed student on this device."""


@cli.command()
def predict(
    artefact: Annotated[Path, typer.Argument(help="folder of the artefact: manifest.json and its files")],
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
    from fedstill.clients.predict import predict_file

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


@cli.command()
def install(
    artefact: Annotated[Path, typer.Argument(help="folder of the artefact: manifest.json and its files")],
    serving: Annotated[Path, typer.Argument(help="serving folder; SERVING/current is what is served")],
    canary: Annotated[str, typer.Option(help="labelled data that it has to pass first")] = "",
    split: Annotated[str, typer.Option(help="part of the canary: test, train or all")] = "all",
    label_column: Annotated[str, typer.Option(help="column of a CSV that holds the class")] = "label",
    max_drop: Annotated[
        float, typer.Option(min=0, max=1, help="how far below the served artefact it may be")
    ] = 0.02,
    min_accuracy: Annotated[float, typer.Option(min=0, max=1, help="what it has to reach")] = 0.0,
) -> None:
    """Serve an artefact from now on, if it passes the canary; the one before is kept."""
    from fedstill.clients.predict import read_for_artefact
    from fedstill.clients.serving import Canary, install_artefact
    from fedstill.common.artefact import read_artefact

    trial = None
    if canary:
        samples = read_for_artefact(read_artefact(artefact), canary, split=split, label_column=label_column)
        trial = Canary(samples, max_drop, min_accuracy)
    release = install_artefact(artefact, serving, canary=trial)
    known = "" if release.accuracy is None else f", accuracy {release.accuracy:.4f} on the canary"
    before = "" if release.served_accuracy is None else f" ({release.served_accuracy:.4f} before)"
    typer.echo(f"{serving / 'current'} is {release.folder.name[:12]}{known}{before}")


@cli.command()
def rollback(
    serving: Annotated[Path, typer.Argument(help="serving folder that install filled")],
) -> None:
    """Serve the artefact before the present one again."""
    from fedstill.clients.serving import roll_back

    typer.echo(f"{serving / 'current'} is {roll_back(serving).name[:12]} again")


@cli.command()
def bench(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="profile to write, TOML")] = None,
    name: Annotated[str, typer.Option(help="name of the device in its profile")] = "device",
    latency_budget: Annotated[
        float, typer.Option(help="longest prediction of one sample that it may take, seconds")
    ] = 0.1,
    flash_bytes: Annotated[
        int | None, typer.Option(help="room for the artefact; left out: what is free on the disk")
    ] = None,
    memory_bytes: Annotated[
        int | None, typer.Option(help="memory to run it in; left out: what is free")
    ] = None,
    link_bytes: Annotated[
        float | None, typer.Option(help="bytes per second of the link; left out: observed while running")
    ] = None,
    home: Annotated[Path | None, typer.Option(help="label cache and node store; else the user's")] = None,
) -> None:
    """Measure this device with a small fixed suite: about five seconds."""
    from fedstill.clients.bench import Budgets, make_profile, measure_device
    from fedstill.common.devices import Link, profile_to_toml, write_profile

    link = None
    if link_bytes is not None:
        if not 1 <= link_bytes <= 1e12:
            raise UsageError(f"--link-bytes: expected 1 to 1e12 bytes per second, got {link_bytes:g}")
        link = Link(down_bytes_per_second=link_bytes, up_bytes_per_second=link_bytes)
    budgets = Budgets(latency_budget, flash_bytes, memory_bytes, link)
    profile = make_profile(name, measure_device(home), budgets)
    typer.echo(profile_to_toml(profile), nl=False)
    if output is not None:
        write_profile(profile, output)
        typer.echo(f"# written to {output}")


@cli.command("run")
def run_node(
    bundle: Annotated[
        Path | None, typer.Option(help="folder that fedstill fleet add made: nothing else is needed")
    ] = None,
    superlink: Annotated[
        str, typer.Option(help="the coordinator's SuperLink, as host:port; else the bundle's")
    ] = "",
    node_id: Annotated[
        str, typer.Option("--node-id", help="the name that this device was enrolled by; else the bundle's")
    ] = "",
    data: Annotated[
        Path | None, typer.Option(help="this device's own labelled data, in any format; else the bundle's")
    ] = None,
    certificates: Annotated[
        Path | None, typer.Option(help="folder with ca.crt, node.crt, node.key, flower.key; else the bundle")
    ] = None,
    home: Annotated[Path | None, typer.Option(help="label cache and node store; else the user's")] = None,
    profile: Annotated[
        Path | None, typer.Option(help="this device's profile, by which its student is planned; see bench")
    ] = None,
    nice: Annotated[int, typer.Option(min=0, max=19, help="how far it stands back for other work")] = 10,
    threads: Annotated[int, typer.Option(min=1, help="threads of numerical libraries")] = 1,
    allow_insecure: Annotated[
        bool, typer.Option("--allow-insecure", help="plaintext to another machine")
    ] = False,
) -> None:
    """Take part in federations with this device's own data, until stopped."""
    from fedstill.clients.bundle import read_bundle
    from fedstill.clients.device import Device, check_device, run_device

    if bundle is not None:
        found = read_bundle(bundle)
        superlink, node_id = superlink or found.superlink, node_id or found.node_id
        data, certificates = data or found.data, certificates or bundle
    wanted = (("--superlink", superlink), ("--node-id", node_id), ("--data", data))
    if data is None or not all(value for _, value in wanted):
        missing = ", ".join(option for option, value in wanted if not value)
        raise UsageError(f"expected --bundle, or {missing}")
    device = Device(node_id, superlink, data, certificates, home, nice, threads, profile)
    check_device(device, allow_insecure=allow_insecure)
    if certificates is None:
        typer.echo("warning: no certificates: what this node sends and gets is not protected", err=True)
    raise typer.Exit(run_device(device))


@cli.command()
def doctor(
    bundle: Annotated[Path, typer.Option(help="folder that fedstill fleet add made")],
) -> int:
    """Check that this device can take part: its certificate, its coordinator, its data."""
    from fedstill.clients.doctor import examine

    findings = list(examine(bundle))
    for finding in findings:
        typer.echo(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.name:11}  {finding.detail}")
    return EXIT_DONE if all(finding.ok for finding in findings) else EXIT_FAILED


def run() -> int:
    """Runs the command line and returns its exit code."""
    return run_command(cli, name="fedstill-node", extra="node")


def main() -> None:
    """Entry point of `fedstill-node`."""
    exit_with(run)
