"""`fedstill certs` and `fedstill fleet`: the authority, and the devices that it lets in."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

certs_cli = typer.Typer(help="Certificates: make an authority, issue, renew, revoke.", no_args_is_help=True)
fleet_cli = typer.Typer(help="Devices: enrol, list, remove.", no_args_is_help=True)

DEFAULT_FOLDER = Path("certificates")
FolderOption = Annotated[Path, typer.Option("--certificates", help="the authority's folder")]
DaysOption = Annotated[int, typer.Option(min=1, max=3650, help="lifetime, days")]
ForceOption = Annotated[bool, typer.Option("--force", help="replace what is there")]
HostOption = Annotated[
    list[str] | None,
    typer.Option("--host", help="name or address by which nodes reach the coordinator, repeatable"),
]
NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="the device's name")]


@certs_cli.command("init")
def init(
    folder: Annotated[Path, typer.Argument(help="folder that the authority fills")] = DEFAULT_FOLDER,
    host: HostOption = None,
    days: DaysOption = 365,
    force: ForceOption = False,
) -> None:
    """Make an authority and the coordinator's certificate."""
    from fedstill.server.pki.authority import CA_KEY, init_authority

    end = init_authority(folder, hosts=host or (), days=days, force=force)
    typer.echo(f"authority    {folder / CA_KEY}: keep it; who has it can let anyone in")
    typer.echo(f"coordinator  {folder / 'server.crt'}, until {end:%Y-%m-%d}, as {_hosts(folder)}")
    typer.echo(f"next         fedstill fleet add NODE --certificates {folder}")


@certs_cli.command("issue")
def issue(
    node: NodeArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="folder to make, or FILE.tar.gz")],
    folder: FolderOption = DEFAULT_FOLDER,
    days: DaysOption = 365,
    force: ForceOption = False,
) -> None:
    """Make a node's key and certificates alone; `fedstill fleet add` makes a whole bundle."""
    from fedstill.server.pki.authority import issue_node
    from fedstill.server.pki.enrolment import check_output, write_bundle

    check_output(output, force=force)
    secrets = issue_node(folder, node, days=days)
    write_bundle(output, node, secrets.files)
    typer.echo(f"{output}: key and certificate of {node}, until {secrets.node.not_after[:10]}")


@certs_cli.command("renew")
def renew(
    name: Annotated[str, typer.Argument(help="a node, or server: the coordinator's")] = "server",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="file for a node's certificate; else NODE.crt")
    ] = None,
    host: HostOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    days: DaysOption = 365,
    force: ForceOption = False,
) -> None:
    """Make a new certificate for a key that is there already."""
    from fedstill.common.files import write_bytes_atomically
    from fedstill.server.pki.authority import SERVER, renew_node, renew_server
    from fedstill.server.pki.enrolment import check_output

    if name == SERVER:
        end = renew_server(folder, hosts=host or (), days=days)
        typer.echo(f"{folder / 'server.crt'}: until {end:%Y-%m-%d}, as {_hosts(folder)}")
        typer.echo("SuperLink and label service take it up with their next connections")
        return
    path = output or Path(f"{name}.crt")
    check_output(path, force=force)
    content, node = renew_node(folder, name, days=days)
    write_bytes_atomically(path, content)
    typer.echo(f"{path}: until {node.not_after[:10]}; put it over node.crt in the bundle of {name}")


@certs_cli.command("revoke")
def revoke(node: NodeArgument, folder: FolderOption = DEFAULT_FOLDER) -> None:
    """Refuse a node from now on, whatever its certificate says."""
    from fedstill.server.pki.authority import revoke_node

    revoked = revoke_node(folder, node)
    typer.echo(f"{node}: {len(revoked.serials)} revoked; the label service refuses it from its next call on")


@fleet_cli.command("add")
def add(
    node: NodeArgument,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="folder to make, or FILE.tar.gz; else FOLDER/bundles/NODE"),
    ] = None,
    superlink: Annotated[
        str, typer.Option(help="the coordinator as host:port; else the certificate's first host, port 8000")
    ] = "",
    data: Annotated[
        str, typer.Option(help="the device's own data, a path on the device; relative to its bundle")
    ] = "data",
    folder: FolderOption = DEFAULT_FOLDER,
    days: DaysOption = 365,
    force: ForceOption = False,
) -> None:
    """Enrol a device: key, certificate and settings in one bundle."""
    from fedstill.server.pki.enrolment import add_node

    path = output or folder / "bundles" / node
    secrets = add_node(folder, node, path, superlink=superlink, data=data, days=days, force=force)
    typer.echo(f"{path}: all that {node} needs, until {secrets.node.not_after[:10]}; hand it over in secret")
    typer.echo("on the device: fedstill-node run --bundle FOLDER")


@fleet_cli.command("list")
def list_nodes(folder: FolderOption = DEFAULT_FOLDER) -> None:
    """List the enrolled devices and how long their certificates last."""
    from fedstill.server.pki.authority import read_fleet

    fleet = read_fleet(folder)
    width = max([4, *(len(name) for name in fleet)])
    typer.echo(f"{'node':{width}}  {'until':10}  days left")
    for name, node in fleet.items():
        left = (datetime.fromisoformat(node.not_after) - datetime.now(UTC)).days
        typer.echo(f"{name:{width}}  {node.not_after[:10]}  {left if left >= 0 else 'expired'}")


@fleet_cli.command("remove")
def remove(node: NodeArgument, folder: FolderOption = DEFAULT_FOLDER) -> None:
    """Revoke a device's certificates and take it off the fleet."""
    revoke(node, folder)


@fleet_cli.command("release")
def release(
    config: Annotated[
        Path | None, typer.Argument(help="the run's configuration, whose modules go along; else none do")
    ] = None,
    app: Annotated[
        Path | None,
        typer.Option("--app", help="app.fab that a coordinator left; else this installation's app"),
    ] = None,
    folder: FolderOption = DEFAULT_FOLDER,
) -> None:
    """Sign the app that devices may run; a coordinator that has the authority's key does so itself."""
    from fedstill.server.commands.release import read_app
    from fedstill.server.pki.release import RELEASES, release_app

    digest = release_app(folder, read_app(config, app))
    typer.echo(f"app {digest[:16]} is signed; bring {folder / RELEASES} to the coordinator's certificates")


def _hosts(folder: Path) -> str:
    from fedstill.common.certificates import SERVER_CERTIFICATE, read_certificate
    from fedstill.server.pki.signing import names_of

    return ", ".join(str(name.value) for name in names_of(read_certificate(folder / SERVER_CERTIFICATE)))
