"""`fedstill coordinator`: SuperLink, SuperExec and a run as one set that outlives its parts.

    <home>/superlink.db      Flower's own record of nodes and runs
    <home>/flower/           Flower's configuration, with the connection "coordinator"
    <home>/app/              what runs there and on the nodes: this installation's own code
    <home>/superexec.secret  what SuperLink and SuperExec share
    <home>/logs/*.log        what each process said
    <home>/runs/<run_id>/    the run folder
    <home>/lock              held (flock) by the one coordinator; it ends with its holder

The SuperLink runs with `--isolation process`, so the SuperExec and the ServerApp under it
are processes of their own. One that dies is started again; a run that Flower reports as
failed is submitted again with `run.resume`, and redoes one round at most. A home has one
coordinator at a time; the next one ends whatever a killed one left running.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from fedstill.common.certificates import SERVER_CERTIFICATE
from fedstill.common.config import Config
from fedstill.common.console import ended_by_sigterm
from fedstill.common.dialing import dial
from fedstill.common.errors import RunError, UsageError
from fedstill.server.deployment.flower_control import Control
from fedstill.server.deployment.flower_programs import (
    Site,
    find_program,
    flower_environment,
    furnish_home,
    submit_command,
    superexec_command,
    superlink_command,
    write_connection,
)
from fedstill.server.deployment.registration import Registry
from fedstill.server.labels.transport import ServerCertificates
from fedstill.server.pki.authority import FLEET
from fedstill.server.run.state import STATE_FILE, hold_folder, is_live, read_holders

START_SECONDS = 60.0
POLL_SECONDS = 0.5
GONE_SECONDS = 3.0
"""A run's process lets go of its folder so long, at most, before Flower knows that it is done."""
GRACE_SECONDS = 10.0
MAX_SUBMISSIONS = 10
COMPLETED = "finished:completed"
OWNER = "FEDSTILL_COORDINATOR"
"""In the environment of all that a coordinator starts: its home."""


@dataclass
class _Part:
    """A process that is kept alive."""

    name: str
    command: list[str]
    certificate: Path | None = None
    """What it reads once, as it starts; None: nothing."""
    process: subprocess.Popen[bytes] | None = None
    certificate_read: bytes | None = None


def register_fleet(site: Site, *, say: Callable[[str], None]) -> None:
    """Tells a SuperLink that runs apart which nodes are enrolled, once.

    Args:
        site: Its address, and the folders of coordinator and authority.
        say: Told in one line of what happens.

    Raises:
        UsageError: No authority.
        RunError: The SuperLink refused a node or was not reached.
    """
    write_connection(site)
    registry = _open_registry(site, Control(site), say)
    if registry is None:
        raise UsageError(f"{site.certificates} holds no authority; make one: fedstill certs init")
    if not registry.sync():
        raise RunError(f"the SuperLink at {site.address} does not know the whole fleet; try again")


def print_commands(site: Site, config: Config, run_dir: Path) -> str:
    """Lists the commands for running the parts apart, one per line, and what they do not do by themselves."""
    furnish_home(site, config)
    environment = flower_environment(site, {})
    prefix = " ".join(f"{key}={shlex.quote(environment[key])}" for key in environment if key != "PATH")
    commands = [superlink_command(site), superexec_command(site)]
    if site.certificates is not None and (site.certificates / FLEET).is_file():
        register = [find_program("fedstill"), "fleet", "register", "--superlink", site.address]
        folders = ["--home", str(site.home), "--certificates", str(site.certificates)]
        commands.append([*register, *folders])
    commands.append(submit_command(site, config, run_dir, resume=False))
    lines = [f"{prefix} {shlex.join(command)}" for command in commands]
    if site.certificates is not None:
        check = ["fedstill", "certs", "served", site.address, "--certificates", str(site.certificates)]
        lines.append(
            f"# after fedstill certs renew, start the SuperLink again; to check: {shlex.join(check)}"
        )
    return "\n".join(lines)


def coordinate(
    site: Site, config: Config, run_dir: Path, *, say: Callable[[str], None], resume: bool = False
) -> Path:
    """Runs a federation on a SuperLink and keeps all its parts alive until it is over.

    Args:
        site: Where the coordinator lives.
        config: The run's configuration.
        run_dir: The run folder; one that holds a run is gone on with if `resume`.
        say: Told in one line of what happens.
        resume: Go on with a run.

    Returns:
        The run folder.

    Raises:
        UsageError: Flower is not installed, the port is taken, certificates lack, or another
            coordinator works in this home.
        RunError: The SuperLink did not come up, or the run failed again and again.
    """
    _check_site(site)
    environment = flower_environment(site, os.environ) | {OWNER: str(site.home)}
    certificate = None if site.certificates is None else site.certificates / SERVER_CERTIFICATE
    parts = [
        _Part("superlink", superlink_command(site), certificate),
        _Part("superexec", superexec_command(site)),
    ]
    with ExitStack() as stack:
        stack.enter_context(ended_by_sigterm())
        stack.enter_context(hold_folder(site.home, option="--home"))
        _end_leftovers(site, say)
        _check_port(site)
        furnish_home(site, config)
        for part in parts:
            stack.callback(_end, part)
            _start(part, site, environment)
            if part.name == "superlink":
                _wait_for_port(site, part)
        say(f"SuperLink on {site.address}; logs in {site.home / 'logs'}")
        control = Control(site)
        registry = _open_registry(site, control, say)
        if registry is not None:
            registry.sync()

        def keep_up() -> bool:
            if registry is not None:
                registry.sync()
            return "superexec" in _keep_alive(parts, site, environment, say)

        for _ in range(MAX_SUBMISSIONS):
            flower_id = _submit(site, config, run_dir, environment, resume=resume)
            say(f"run {run_dir.name} was submitted as {flower_id}{' to go on' if resume else ''}")
            status = _watch(flower_id, run_dir, control, keep_up)
            if status == COMPLETED:
                return run_dir
            say(f"the run ended as {status}")
            if not (run_dir / STATE_FILE).exists():
                raise RunError(f"the run failed before its first commit ({status}); see {site.home / 'logs'}")
            resume = True
    raise RunError(f"the run failed {MAX_SUBMISSIONS} times; see {site.home / 'logs'}")


def _check_site(site: Site) -> None:
    for name in ("ca.crt", "server.crt", "server.key"):
        if site.certificates is not None and not (site.certificates / name).is_file():
            raise UsageError(
                f"{site.certificates} holds no {name}; it needs ca.crt, server.crt and server.key"
            )
    if site.certificates is not None:
        ServerCertificates(site.certificates)  # says what is wrong with them


def _check_port(site: Site) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((site.host, site.port))
        except OSError as error:
            raise UsageError(
                f"cannot serve on {site.host}:{site.port} ({error.strerror}); choose another --port"
            ) from None


def _end_leftovers(site: Site, say: Callable[[str], None]) -> None:
    """Ends what a coordinator of this home left running when it was killed; only the home's holder may."""
    leftovers = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(OWNER) == str(site.home):
                process.kill()
                leftovers.append(process)
    if leftovers:
        psutil.wait_procs(leftovers, timeout=GRACE_SECONDS)
        say(f"what a killed coordinator had left was ended ({len(leftovers)} processes)")


def _start(part: _Part, site: Site, environment: dict[str, str]) -> None:
    log = site.home / "logs" / f"{part.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    part.certificate_read = _read_certificate(part)
    with log.open("ab") as file:
        part.process = subprocess.Popen(  # noqa: S603 the command is built above
            part.command, env=environment, stdout=file, stderr=file, start_new_session=True
        )


def _read_certificate(part: _Part) -> bytes | None:
    return None if part.certificate is None else part.certificate.read_bytes()


def _end(part: _Part) -> None:
    if part.process is None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(part.process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            part.process.wait(GRACE_SECONDS)


def _wait_for_port(site: Site, part: _Part) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if part.process is not None and part.process.poll() is not None:
            break
        with contextlib.suppress(OSError), dial(site.address, timeout_seconds=1):
            return
        time.sleep(0.1)
    raise RunError(f"the SuperLink did not come up on {site.address}; see {site.home / 'logs/superlink.log'}")


def _keep_alive(
    parts: list[_Part], site: Site, environment: dict[str, str], say: Callable[[str], None]
) -> list[str]:
    """Starts again what has died, or reads a certificate that was renewed only as it starts; names it."""
    restarted = []
    for part in parts:
        code = None if part.process is None else part.process.poll()
        is_renewed = _read_certificate(part) != part.certificate_read
        if code is not None or is_renewed:
            cause = "takes up its new certificate" if code is None else f"ended with code {code}"
            say(f"the {part.name} {cause} and is started again")
            _end(part)
            _start(part, site, environment)
            restarted.append(part.name)
    return restarted


def _submit(site: Site, config: Config, run_dir: Path, environment: dict[str, str], *, resume: bool) -> str:
    answer = _ask(submit_command(site, config, run_dir, resume=resume), environment)
    if not answer.get("success"):
        raise RunError(f"the SuperLink refused the run: {answer.get('error-message', answer)}")
    return str(answer["run-id"])


def _watch(flower_id: str, run_dir: Path, control: Control, keep_up: Callable[[], bool]) -> str:
    """Waits for the end of a run and returns how it ended.

    `keep_up` keeps the parts alive, and says whether what the run's process lives under had died.

    While a living process holds the run folder's lock the run goes on. Of a process that died
    Flower hears a minute later, so such a run is stopped at once.
    """
    alive_at: float | None = None
    is_lost = False
    while True:
        is_lost |= keep_up()
        if is_live(run_dir, read_holders()):
            alive_at = time.monotonic()
        else:
            with contextlib.suppress(RunError):  # a SuperLink that is just coming back
                status, details = control.read_status(flower_id)
                if status.startswith("finished"):
                    return status if status == COMPLETED else f"{status} ({details})"
                if alive_at is not None and (is_lost or time.monotonic() - alive_at > GONE_SECONDS):
                    control.stop(flower_id)
                    return "lost (its process is gone)"
        time.sleep(POLL_SECONDS)


def _open_registry(site: Site, control: Control, say: Callable[[str], None]) -> Registry | None:
    if site.certificates is None or not (site.certificates / FLEET).is_file():
        return None
    return Registry(site.certificates, site.home, control=control, say=say)


def _ask(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Asks the SuperLink through `flwr`; one that is just coming back answers nothing."""
    done = subprocess.run(  # noqa: S603 the command is built above
        command, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        return {"success": False, "error-message": " ".join((done.stderr or done.stdout).split())[-400:]}
    return answer if isinstance(answer, dict) else {}
