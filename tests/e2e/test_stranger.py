"""A stranger before an enrolled federation: what he sends never runs on a device, and what is signed does."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from flwr.proto import control_pb2

from fedstill.common.app_signature import APP_SIGNATURE, digest_app, sign_digest
from fedstill.server.deployment.flower_app import app_folder, bundle_app
from fedstill.server.deployment.flower_control import Control
from fedstill.server.deployment.flower_programs import flower_environment, superexec_command
from fedstill.server.deployment.registration import Registry
from fedstill.server.deployment.site import Site
from fedstill.server.pki.authority import init_authority, open_authority
from fedstill.server.pki.enrolment import add_node
from tests.deployment import BIN, started
from tests.superlinks import make_site, running_superlink

pytestmark = [pytest.mark.slow, pytest.mark.deployment, pytest.mark.xdist_group("deployment-2")]
DEVICES = ("one", "two", "three")
CODE = """
import uuid
from pathlib import Path
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

HERE = Path({marks!r})
app = ClientApp()
server = ServerApp()

@app.query()
def answer(message, context):
    (HERE / context.node_config["node-id"]).touch()
    return Message(RecordDict(), reply_to=message)

@server.main()
def main(grid, context):
    nodes = []
    while len(nodes) < {count}:
        nodes = list(grid.get_node_ids())
    messages = [Message(RecordDict(), dst_node_id=node, message_type="query") for node in nodes]
    list(grid.send_and_receive(messages, timeout={seconds}))
    (HERE / "ended").touch()
"""


def write_app(home: Path, marks: Path, *, seconds: float) -> Path:
    """Writes a Flower app that leaves the name of each device that ran it in a folder."""
    folder = app_folder(home)
    folder.mkdir(parents=True)
    marks.mkdir()
    project = {"name": "his", "version": "1.0.0", "description": "", "license": "Apache-2.0"}
    app = {
        "publisher": "stranger",
        "components": {"serverapp": "code_of_his:server", "clientapp": "code_of_his:app"},
        "config": {APP_SIGNATURE: ""},
    }
    content = {"project": project, "tool": {"flwr": {"app": app}}}
    (folder / "pyproject.toml").write_text(tomli_w.dumps(content))
    code = CODE.format(marks=str(marks), count=len(DEVICES), seconds=seconds)
    (folder / "code_of_his.py").write_text(code)
    return folder


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A coordinator whose three devices are connected."""
    folder = tmp_path_factory.mktemp("enrolled")
    init_authority(folder / "certificates")
    site = make_site(folder / "home", folder / "certificates")
    np.savez(folder / "own.npz", x=np.zeros((8, 8, 8), np.uint8), y=np.arange(8) % 2)
    with ExitStack() as stack:
        stack.enter_context(running_superlink(site))
        environment = flower_environment(site, os.environ)
        stack.enter_context(started([*superexec_command(site)], environment, folder / "superexec.log"))
        for name in DEVICES:
            add_node(folder / "certificates", name, folder / name, superlink=site.address, data="../own.npz")
        control = Control(site)
        assert Registry(folder / "certificates", site.home, control=control, say=print).sync()
        for name in DEVICES:
            command = [
                BIN / "fedstill-node",
                "run",
                "--bundle",
                folder / name,
                "--home",
                folder / f"home-{name}",
            ]
            stack.enter_context(started(command, dict(os.environ), folder / f"{name}.log"))
        yield site


def wait_for(path: Path, *, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"waited in vain for {path}"
        time.sleep(0.1)


def read_logs(site: Site) -> list[str]:
    return [(site.home.parent / f"{name}.log").read_text() for name in DEVICES]


def test_with_flowers_own_command_a_stranger_neither_submits_nor_lists_nor_stops(
    enrolled: Site, tmp_path: Path
) -> None:
    app = write_app(tmp_path / "app", tmp_path / "marks", seconds=1)
    assert enrolled.certificates is not None
    home = tmp_path / "flower"
    home.mkdir()
    doors = {"devices": enrolled.address, "operator": enrolled.operator_address}
    trust = {"root-certificates": str(enrolled.certificates / "ca.crt")}  # all that is public
    connections = {name: {"address": address} | trust for name, address in doors.items()}
    (home / "config.toml").write_text(tomli_w.dumps({"superlink": {"default": "devices"} | connections}))
    for door in doors:
        for words in (["run", app, door], ["list", door], ["stop", "1", door], ["supernode", "list", door]):
            command = [str(word) for word in (BIN / "flwr", *words, "--format", "json")]
            done = subprocess.run(
                command,
                env=os.environ | {"FLWR_HOME": str(home)},
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )
            assert not json.loads(done.stdout)["success"], done.stdout
    with Control(enrolled)._open() as client:
        assert not client.ListRuns(control_pb2.ListRunsRequest()).run_dict
    assert not list((tmp_path / "marks").iterdir())


def test_a_device_runs_what_its_authority_signed_and_not_with_one_byte_changed(
    enrolled: Site, tmp_path: Path
) -> None:
    control = Control(enrolled)
    assert enrolled.certificates is not None
    key = open_authority(enrolled.certificates).key

    def submit(name: str, *, seconds: float, is_changed: bool) -> list[str]:
        marks = tmp_path / f"{name}-marks"
        code = write_app(tmp_path / name, marks, seconds=seconds) / "code_of_his.py"
        signature = sign_digest(key, digest_app(bundle_app(tmp_path / name)))
        if is_changed:
            code.write_text(code.read_text().replace("uuid", "uu  "))
        control.start(bundle_app(tmp_path / name), {APP_SIGNATURE: signature})
        wait_for(marks / "ended")
        return sorted(path.name for path in marks.iterdir())

    assert submit("signed", seconds=60, is_changed=False) == sorted([*DEVICES, "ended"])
    assert submit("changed", seconds=12, is_changed=True) == ["ended"]
    assert submit("again", seconds=60, is_changed=False) == sorted([*DEVICES, "ended"])  # they go on
    for said in read_logs(enrolled):
        assert "refused: run " in said
        assert "brings an app that this device's authority did not sign" in said
