"""`fedstill`: launches, serves and looks at federations."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedstill.common.config import Config, config_schema, load_config, reference
from fedstill.common.console import VersionOption, exit_with, run_command
from fedstill.common.errors import EXIT_DONE, EXIT_FAILED, UsageError
from fedstill.common.modules import BUNDLE_FOLDER, looking_in
from fedstill.server.commands.certs import certs_cli, fleet_cli

cli = typer.Typer(
    name="fedstill",
    help="Federated distillation: one large teacher becomes many small students.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
labels_cli = typer.Typer(help="Soft labels without a coordinator.", no_args_is_help=True)
teacher_cli = typer.Typer(help="A teacher that is no model here.", no_args_is_help=True)
cli.add_typer(labels_cli, name="labels")
cli.add_typer(teacher_cli, name="teacher")
cli.add_typer(certs_cli, name="certs")
cli.add_typer(fleet_cli, name="fleet")


def _look_beside(context: typer.Context, config: Path | None) -> Path | None:
    # For as long as the command runs, here and in what it starts: `module:function` may lie beside its file.
    if not context.resilient_parsing:
        context.with_resource(looking_in(*([config.parent] if config else [])))
    return config


ConfigArgument = Annotated[
    Path | None,
    typer.Argument(help="TOML file; left out: the embedded default", callback=_look_beside),
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="key=value over the file, repeatable")]


@cli.callback()
def _root(_version: VersionOption = False) -> None:
    """Federated distillation: one large teacher becomes many small students."""


@cli.command()
def simulate(
    config: ConfigArgument = None,
    overrides: SetOption = None,
    run_dir: Annotated[Path | None, typer.Option(help="folder that this run fills")] = None,
    ray_address: Annotated[str | None, typer.Option(help="an existing Ray cluster, as host:port")] = None,
    resume: Annotated[str | None, typer.Option(help="run id or folder of a run to go on with")] = None,
    grid: Annotated[str, typer.Option(help="ray, or local: everything in this process")] = "ray",
    as_json: Annotated[
        bool, typer.Option("--json", help="print the summary as JSON and nothing else")
    ] = False,
) -> None:
    """Run a federation of virtual nodes."""
    from fedstill.server.run.folder import RUNS_DIR, find_run, load_run_config, name_run

    run_id = ""
    if resume is not None:
        if config is not None or overrides:
            raise UsageError("--resume goes on with the run's own configuration: leave CONFIG and --set out")
        folder = find_run(resume)
        settings = load_run_config(folder)
    else:
        settings = load_config(config, overrides=overrides or ())
        run_id = name_run(settings)
        folder = run_dir or RUNS_DIR / run_id
    # Torch and Ray come with it, and a mistake above is told without them.
    from fedstill.server.simulate import simulate_and_show

    simulate_and_show(
        settings,
        run_dir=folder,
        run_id=run_id,
        resume=resume is not None,
        grid_name=grid,
        ray_address=ray_address,
        as_json=as_json,
    )


@cli.command()
def compare(
    schemes: Annotated[str, typer.Option(help="schemes to compare, with commas")],
    config: ConfigArgument = None,
    seeds: Annotated[str, typer.Option(help="seeds, with commas; each gives other partitions")] = "0,1,2",
    sweep: Annotated[list[str] | None, typer.Option(help="key=value,value to vary, repeatable")] = None,
    overrides: SetOption = None,
    output_dir: Annotated[Path | None, typer.Option(help="folder that is filled or gone on with")] = None,
    jobs: Annotated[
        int | None, typer.Option(help="runs side by side; left out: what the cores carry")
    ] = None,
    grid: Annotated[str, typer.Option(help="local: one core per run; ray: all cores per run")] = "local",
    as_json: Annotated[
        bool, typer.Option("--json", help="print the comparison as JSON and nothing else")
    ] = False,
) -> int:
    """Run several schemes over the same partitions and say what the seeds' spread allows."""
    from fedstill.server import compare as comparing

    plan = comparing.make_plan(
        config, schemes=schemes, seeds=seeds, sweeps=sweep or (), overrides=overrides or ()
    )
    output_dir = output_dir or comparing.default_output(config)
    display = comparing.make_display(plan)
    try:
        found = comparing.compare(plan, output_dir=output_dir, jobs=jobs, grid_name=grid, display=display)
    finally:
        display.close()
    if as_json:
        sys.stdout.write((output_dir / comparing.COMPARISON_FILE).read_text(encoding="utf-8"))
    else:
        comparing.print_comparison(found, output_dir / comparing.PAGE_FILE)
    return EXIT_DONE if found.is_sound else EXIT_FAILED


@cli.command()
def compress(
    model: Annotated[
        str, typer.Argument(help="a .safetensors checkpoint, an .onnx file, or module:function")
    ],
    data: Annotated[
        str, typer.Option(help="built-in name or path of labelled data, with or without a test part")
    ],
    plans: Annotated[
        list[str] | None,
        typer.Option("--plan", help="as prune=0.5,bits=8,runtime=executorch; repeatable; left out: a grid"),
    ] = None,
    model_name: Annotated[
        str, typer.Option("--model", help="family of a checkpoint, or of what an ONNX file teaches")
    ] = "auto",
    width: Annotated[float, typer.Option(min=0.05, max=16, help="width of that family")] = 1.0,
    output_dir: Annotated[
        Path, typer.Option("--output", "-o", help="folder that is filled or gone on with")
    ] = Path("compressed"),
    epochs: Annotated[int, typer.Option(min=1, help="training of each plan, and of the control")] = 10,
    learning_rate: Annotated[float, typer.Option(min=1e-6, max=1.0, help="its peak")] = 1e-3,
    distill_lambda: Annotated[
        float, typer.Option("--lambda", min=0, max=1, help="weight of soft labels; the rest is the labels'")
    ] = 0.9,
    temperature: Annotated[float, typer.Option(min=0.1, max=100, help="of the soft labels")] = 4.0,
    calibration: Annotated[
        str, typer.Option(help="samples that set the ranges of 8 bits, if not DATA's")
    ] = "",
    num_calibration: Annotated[int, typer.Option(min=1, help="how many of them")] = 256,
    label_column: Annotated[str, typer.Option(help="column of a CSV that holds the class")] = "label",
    seed: Annotated[int, typer.Option(min=0, help="seed of cuts and training")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="threads of training; latencies are of one")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="print front.json and nothing else")] = False,
) -> None:
    """Compress a model in several ways, measure each, and say which nothing else beats."""
    from fedstill.common.config import DataConfig
    from fedstill.server import compress as compressing

    request = compressing.Request(
        model,
        DataConfig(source=data, label_column=label_column),
        output_dir,
        tuple(plans or ()),
        model_name,
        width,
        compressing.Budget(
            num_epochs=epochs,
            learning_rate=learning_rate,
            temperature=temperature,
            distill_lambda=distill_lambda,
        ),
        calibration=calibration,
        num_calibration=num_calibration,
        seed=seed,
        num_threads=threads,
    )
    front = compressing.compress_model(request, say=lambda line: typer.echo(line, err=True))
    if as_json:
        sys.stdout.write((output_dir / compressing.FRONT_FILE).read_text(encoding="utf-8"))
    else:
        compressing.print_front(front, output_dir)


@cli.command()
def coordinator(
    config: ConfigArgument = None,
    overrides: SetOption = None,
    home: Annotated[Path, typer.Option(help="folder of database, logs and runs")] = Path("coordinator"),
    host: Annotated[str, typer.Option(help="address that the SuperLink binds")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="port of the SuperLink")] = 8000,
    certificates: Annotated[
        Path | None, typer.Option(help="folder of fedstill certs init: TLS everywhere")
    ] = None,
    run_id: Annotated[
        str, typer.Option(help="name of the run; one that HOME/runs holds already is gone on with")
    ] = "",
) -> None:
    """Run a federation of devices: SuperLink, SuperExec and the run as one supervised set."""
    from fedstill.server.deployment.site import Site, check_site, secure
    from fedstill.server.deployment.supervision import coordinate
    from fedstill.server.run.folder import load_run_config, name_run

    site = Site(home.resolve(), host, port, certificates.resolve() if certificates else None)
    check_site(site)
    settings = load_config(config, overrides=overrides or ())
    run_dir = site.home / "runs" / (run_id or name_run(settings))
    resume = (run_dir / "config.toml").exists()
    if resume:
        settings = load_run_config(run_dir)
        typer.echo(f"{run_dir.name} was begun already and goes on with its own configuration")
    settings = secure(settings, site)
    if not (run_dir / "summary.json").exists():
        with looking_in(run_dir / BUNDLE_FOLDER):
            coordinate(site, settings, run_dir, say=typer.echo, resume=resume)
    typer.echo(f"run folder  {run_dir}")


@cli.command()
def plan(
    device: Annotated[str, typer.Option(help="a shipped device profile, as pi-4, or a path to one")],
    config: ConfigArgument = None,
    overrides: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the plan as JSON and nothing else")] = False,
) -> None:
    """Choose student, compression and codec for a device, and say what was rejected and why."""
    import json

    from fedstill.server.commands.plan import plan_device, plan_to_json, print_plan, require_choice
    from fedstill.server.display.progress import make_progress

    settings = load_config(config, overrides=overrides or ())
    progress = make_progress(json_mode=as_json)
    try:
        found = plan_device(settings, device, progress)
    finally:
        progress.close()
    if as_json:
        sys.stdout.write(json.dumps(plan_to_json(found), indent=1) + "\n")
        require_choice(found)
    else:
        console = Console(highlight=False)
        print_plan(found, console if console.is_terminal else Console(highlight=False, width=140))


@cli.command(name="list")
def list_names(
    kind: Annotated[
        str | None, typer.Argument(help="losses, models, codecs …; left out: all", show_default=False)
    ] = None,
) -> None:
    """List what configurations can name here, built in and from installed packages, and where it is from."""
    from fedstill.server.commands.listing import list_known

    for line in list_known(kind):
        typer.echo(line)


@cli.command(name="config")
def show_config(
    schema: Annotated[
        bool, typer.Option("--schema", help="print the JSON Schema by which editors check a configuration")
    ] = False,
) -> None:
    """Print the annotated reference: every key with its default."""
    sys.stdout.write(config_schema() if schema else reference())


@cli.command()
def init(folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="folder to fill")] = Path()) -> None:
    """Write a configuration to start from, and a module with models and a loss of one's own."""
    from fedstill.server.commands.init import write_starter

    written = write_starter(folder)
    typer.echo(f"written  {', '.join(str(path) for path in written)}")
    typer.echo(f"next     fedstill simulate {written[0]}")


@cli.command()
def report(run_dir: Annotated[Path, typer.Argument(help="folder of a finished run")]) -> None:
    """Write report.html of a finished run again."""
    from fedstill.server.report import write_report

    typer.echo(str(write_report(run_dir)))


@cli.command()
def dashboard(
    runs_dir: Annotated[Path, typer.Argument(help="folder of runs, or one run's")] = Path("runs"),
    host: Annotated[
        str, typer.Option(help="address to bind; other than loopback takes a token")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="port to bind; 0: a free one")] = 8700,
    token: Annotated[
        str,
        typer.Option(envvar="FEDSTILL_TOKEN", help="what those who look have to know; made where it lacks"),
    ] = "",
) -> None:
    """Show runs on a web page, live ones as they go, until interrupted."""
    from fedstill.server.dashboard import check_binding, serve_dashboard

    serve_dashboard(runs_dir, check_binding(host, port, token), say=typer.echo)


@cli.command()
def doctor(config: ConfigArgument = None, overrides: SetOption = None) -> int:
    """Check that this machine can run a federation."""
    from fedstill.server.commands.doctor import print_findings, run_doctor

    settings = load_config(config, overrides=overrides or ()) if config or overrides else Config()
    findings = run_doctor(settings)
    print_findings(findings)
    return EXIT_FAILED if any(finding.ok is False for finding in findings) else EXIT_DONE


@labels_cli.command()
def serve(
    store: Annotated[Path, typer.Argument(help="label store, as RUN/labels")],
    host: Annotated[str, typer.Option(help="address to bind")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="port to bind; 0: a free one")] = 0,
    uploads: Annotated[
        Path | None, typer.Option(help="folder for uploads; left out: beside the store")
    ] = None,
    certificates: Annotated[
        Path | None, typer.Option(help="folder of fedstill certs init: mutual TLS")
    ] = None,
    allow_insecure: Annotated[
        bool, typer.Option("--allow-insecure", help="plaintext to other machines")
    ] = False,
) -> None:
    """Serve a label store without a coordinator, until interrupted."""
    if certificates is not None:
        # At this level gRPC says why a handshake failed; the caller itself is told nothing.
        os.environ.setdefault("GRPC_VERBOSITY", "INFO")
    from fedstill.server.labels import LabelService, LabelStore
    from fedstill.server.labels.access import ACCESS_FILE

    if not store.is_dir():
        raise UsageError(f"expected the folder of a label store, {store} is none")
    with LabelService(
        LabelStore(store),
        host=host,
        port=port,
        uploads_dir=uploads or store.parent / "nodes",
        certificates_dir=certificates,
        access_file=store.parent / ACCESS_FILE,
        allow_insecure=allow_insecure,
    ) as service:
        typer.echo(f"label service on {service.address}")
        service.wait()


@teacher_cli.command()
def public(
    output_dir: Annotated[Path, typer.Option("--output", "-o", help="folder to fill")],
    config: ConfigArgument = None,
    overrides: SetOption = None,
) -> None:
    """Write the public samples in order, with their digest, to be labelled elsewhere (teacher.labels)."""
    from fedstill.server.commands.public import export_public

    written = export_public(load_config(config, overrides=overrides or ()), output_dir)
    typer.echo(f"written  {', '.join(str(path) for path in written)}")


def run() -> int:
    """Runs the command line and returns its exit code."""
    return run_command(cli, name="fedstill", extra="server")


def main() -> None:
    """Entry point of `fedstill`."""
    exit_with(run)
