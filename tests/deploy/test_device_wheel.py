"""What devices install holds none of the coordinator's code, and does without it."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    sys.path.insert(0, str(ROOT / "deploy" / "device"))
    try:
        from device_wheel import build_wheel
    finally:
        sys.path.pop(0)
    return build_wheel(tmp_path_factory.mktemp("dist"), isolated=False)


def test_it_holds_no_code_of_the_coordinator(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name.split("/")[1] for name in names if name.startswith("fedstill/")}
    assert inside == {"__init__.py", "py.typed", "clients", "common", "protos"}
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"fedstill"}
    assert "fedstill/clients/app.py" in names
    assert "fedstill/protos/fedstill/v1/labels_pb2.py" in names


def test_it_is_a_distribution_of_its_own(wheel):
    assert wheel.name.startswith("fedstill_device-")
    (about,) = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("/METADATA")]
    lines = zipfile.ZipFile(wheel).read(about).decode().splitlines()
    assert "Name: fedstill-device" in lines
    assert {line for line in lines if line.startswith("Provides-Extra")} == {
        "Provides-Extra: node",
        "Provides-Extra: edge",
        "Provides-Extra: datasets",
        "Provides-Extra: text",
    }
    assert not [line for line in lines if line.startswith("Requires-Dist: fedstill[")]


def test_it_has_the_devices_command_alone(wheel):
    (entries,) = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("entry_points.txt")]
    text = zipfile.ZipFile(wheel).read(entries).decode()
    assert text.split() == ["[console_scripts]", "fedstill-node", "=", "fedstill.clients.cli:main"]


@pytest.mark.parametrize("module", ["fedstill.clients.predict", "fedstill.clients.app"])
def test_it_runs_without_the_coordinators_code(wheel, tmp_path, module):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = f"import sys; sys.modules['fedstill.server'] = None; import {module}; print({module}.__file__)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={"PYTHONPATH": str(tmp_path), "PATH": "/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))
