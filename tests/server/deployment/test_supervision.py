"""A coordinator's parts are kept alive, and its app is signed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from fedstill.common.app_signature import digest_app, is_signed
from fedstill.common.certificates import read_certificate
from fedstill.common.config import Config
from fedstill.common.dialing import find_free_port
from fedstill.common.errors import UsageError
from fedstill.server.deployment.flower_programs import flower_environment
from fedstill.server.deployment.site import Site
from fedstill.server.deployment.supervision import (
    OWNER,
    _end_leftovers,
    _keep_alive,
    _prepare_app,
    _wait_for_port,
    coordinate,
)
from fedstill.server.pki.authority import init_authority
from fedstill.server.run.state import hold_folder
from tests.superlinks import make_site, running_superlink


@pytest.mark.slow
def test_a_dead_superlink_is_started_again(tmp_path: Path) -> None:
    init_authority(tmp_path / "certificates")
    site = make_site(tmp_path / "home", tmp_path / "certificates")
    environment = flower_environment(site, os.environ)
    said: list[str] = []
    with running_superlink(site) as part:
        assert _keep_alive([part], site, environment, said.append) == []
        assert part.process
        part.process.kill()
        part.process.wait()
        assert _keep_alive([part], site, environment, said.append) == ["superlink"]
        _wait_for_port(site, part)
    assert said == ["the superlink ended with code -9 and is started again"]


@pytest.mark.slow
def test_where_the_authoritys_key_is_not_an_app_has_to_be_released(tmp_path: Path) -> None:
    certificates, elsewhere = tmp_path / "certificates", tmp_path / "elsewhere"
    init_authority(elsewhere)
    shutil.copytree(elsewhere, certificates, ignore=shutil.ignore_patterns("authority"))
    site = Site(tmp_path / "home", "127.0.0.1", find_free_port(), certificates)
    command = [str(Path(sys.executable).with_name("fedstill")), "fleet", "release"]
    with pytest.raises(UsageError, match=r"what their authority signed.*fedstill fleet release --app"):
        _prepare_app(site, Config())
    app = site.home / "app.fab"
    for source in (["--app", str(app)], []):  # the coordinator's own, and this installation's: the same
        subprocess.run([*command, *source, "--certificates", str(elsewhere)], check=True)
        shutil.move(elsewhere / "releases.json", certificates / "releases.json")
        bundle, signature = _prepare_app(site, Config())
        assert bundle == app.read_bytes()
        authority = read_certificate(certificates / "ca.crt")
        assert is_signed(digest_app(bundle), signature, authority=authority)
        (certificates / "releases.json").unlink()
    init_authority(tmp_path / "other")
    subprocess.run([*command, "--certificates", str(tmp_path / "other")], check=True)
    shutil.move(tmp_path / "other" / "releases.json", certificates / "releases.json")
    with pytest.raises(UsageError, match="neither its key nor its signature"):
        _prepare_app(site, Config())


def test_a_home_has_one_coordinator_at_a_time(tmp_path: Path) -> None:
    site = Site(tmp_path / "home", "127.0.0.1", 8000)
    refused = pytest.raises(UsageError, match=f"process {os.getpid()}\\) works in .*home: .* with --home")
    with hold_folder(site.home), refused:
        coordinate(site, Config(), site.home / "runs" / "run", say=print)
    assert not (site.home / "superlink.db").exists()


def test_what_a_killed_coordinator_left_is_ended_and_nothing_else(tmp_path: Path) -> None:
    site = Site(tmp_path / "home", "127.0.0.1", 8000)
    said: list[str] = []
    _end_leftovers(site, said.append)
    assert said == []
    left, other = (
        subprocess.Popen(["sleep", "60"], env=os.environ | {OWNER: str(home)})
        for home in (site.home, tmp_path / "another")
    )
    try:
        _end_leftovers(site, said.append)
        assert not psutil.pid_exists(left.pid)
        assert other.poll() is None
    finally:
        for process in (left, other):
            process.kill()
            process.wait()
    assert said == ["what a killed coordinator had left was ended (1 processes)"]
