"""`fedstill coordinator`: SuperLink, SuperExec and a run as one set that outlives its parts.

    <home>/superlink.db      Flower's own record of nodes and runs
    <home>/flower/           what Flower keeps for itself
    <home>/app/, app.fab     what runs there and on the nodes: this installation's own code
    <home>/tls/, *.token, *.secret   see `site`
    <home>/logs/*.log        what each process said
    <home>/runs/<run_id>/    the run folder
    <home>/lock              held (flock) by the one coordinator; it ends with its holder

The SuperLink (`superlink`) runs with `--isolation process`, so the SuperExec and the ServerApp under it
are processes of their own. One that dies is started again; a run that Flower reports as
failed is submitted again with `run.resume`, and redoes one round at most. A home has one
coordinator at a time; the next one ends whatever a killed one left running.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from fedstill.common.config import Config, Scalar
from fedstill.common.console import ended_by_sigterm
from fedstill.common.dialing import dial, find_free_port
from fedstill.common.errors import RunError, UsageError
from fedstill.common.files import write_bytes_atomically
from fedstill.server.deployment.flower_app import bundle_app, run_settings, write_app
from fedstill.server.deployment.flower_control import Control, UnreachableError
from fedstill.server.deployment.flower_programs import (
    flower_environment,
    superexec_command,
    superlink_command,
)
from fedstill.server.deployment.registration import Registry
from fedstill.server.deployment.site import Site, check_site, copy_certificates, write_secrets
from fedstill.server.pki.release import RELEASES, find_signature
from fedstill.server.run.state import STATE_FILE, hold_folder, is_live, read_holders

APP_FILE = "app.fab"
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
    process: subprocess.Popen[bytes] | None = None


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
        UsageError: Flower is not installed, the port is taken, certificates or the app's signature
            lack, or another coordinator works in this home.
        RunError: The SuperLink did not come up, or the run failed again and again.
    """
    check_site(site)
    environment = flower_environment(site, os.environ) | {OWNER: str(site.home)}
    with ExitStack() as stack:
        stack.enter_context(ended_by_sigterm())
        stack.enter_context(hold_folder(site.home, option="--home"))
        _end_leftovers(site, say)
        _check_port(site)
        bundle, signature = _prepare_app(site, config)
        site = replace(site, operator_port=find_free_port())
        write_secrets(site)
        copy_certificates(site)
        parts = [_Part("superlink", superlink_command(site)), _Part("superexec", superexec_command(site))]
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
            copy_certificates(site)
            if registry is not None:
                registry.sync()
            return "superexec" in _keep_alive(parts, site, environment, say)

        for _ in range(MAX_SUBMISSIONS):
            settings = run_settings(config, run_dir, resume=resume, signature=signature)
            flower_id = _submit(control, bundle, settings, keep_up)
            say(f"run {run_dir.name} was submitted as {flower_id}{' to go on' if resume else ''}")
            status = _watch(flower_id, run_dir, control, keep_up)
            if status == COMPLETED:
                return run_dir
            say(f"the run ended as {status}")
            if not (run_dir / STATE_FILE).exists():
                raise RunError(f"the run failed before its first commit ({status}); see {site.home / 'logs'}")
            resume = True
    raise RunError(f"the run failed {MAX_SUBMISSIONS} times; see {site.home / 'logs'}")


def _prepare_app(site: Site, config: Config) -> tuple[bytes, str]:
    """Writes the app, with a run's modules, and finds its signature; in plaintext nobody asks for one."""
    write_app(site.home, config)
    bundle = bundle_app(site.home)
    if site.certificates is None:
        return bundle, ""
    signature = find_signature(site.certificates, bundle)
    if signature is None:
        path = site.home / APP_FILE
        write_bytes_atomically(path, bundle)
        raise UsageError(
            f"devices run only what their authority signed, and {site.certificates} has neither its key nor"
            f" its signature of {path}: where the key is, fedstill fleet release --app app.fab; then bring"
            f" {RELEASES} here"
        )
    return bundle, signature


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
    with log.open("ab") as file:
        part.process = subprocess.Popen(  # noqa: S603 the command is built above
            part.command, env=environment, stdout=file, stderr=file, start_new_session=True
        )


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
    """Starts again what has died, and names it."""
    restarted = []
    for part in parts:
        code = None if part.process is None else part.process.poll()
        if code is not None:
            say(f"the {part.name} ended with code {code} and is started again")
            _end(part)
            _start(part, site, environment)
            restarted.append(part.name)
    return restarted


def _submit(
    control: Control, bundle: bytes, settings: Mapping[str, Scalar], keep_up: Callable[[], bool]
) -> str:
    """Hands a run over; a SuperLink that is just coming back is waited for."""
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            return control.start(bundle, settings)
        except UnreachableError:
            if time.monotonic() > end:
                raise
        keep_up()
        time.sleep(POLL_SECONDS)


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
    if site.tls is None or not site.has_fleet:
        return None
    return Registry(site.tls, site.home, control=control, say=say)
