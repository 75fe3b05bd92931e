"""The Flower app that a coordinator ships: complete, and first on the path wherever it is unpacked."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import fedstill
from fedstill.common.config import Config, build_config
from fedstill.common.modules import looking_in
from fedstill.server.deployment.flower_app import COMPONENTS, app_pyproject, write_app

ROOT = Path(__file__).resolve().parents[3]
BIN = Path(sys.executable).parent


def build_bundle(app: Path, folder: Path) -> Path:
    """Builds the app with Flower's own command and unpacks it."""
    folder.mkdir()
    command = [str(BIN / "flwr"), "build", "--app", str(app)]
    environment = os.environ | {"FLWR_HOME": str(folder / "flower")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (bundle,) = folder.glob("*.fab")
    zipfile.ZipFile(bundle).extractall(folder / "unpacked")
    return folder / "unpacked"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What Flower makes of the app that a coordinator writes, and of the checkout as it is."""
    folder = tmp_path_factory.mktemp("bundles")
    own = folder / "own"
    own.mkdir()
    (own / "mine.py").write_text("import parts\n\n\ndef student():\n    return parts.NAME\n")
    (own / "parts.py").write_text("NAME = 'bundled'\n")
    with looking_in(own):
        written = write_app(folder / "home", build_config({"student.model": "mine:student"}))
    return {
        "written": build_bundle(written, folder / "first"),
        "checkout": build_bundle(ROOT, folder / "second"),
    }


@pytest.mark.parametrize("origin", ["written", "checkout"])
def test_inside_a_bundle_its_own_code_wins_over_an_installed_one(
    bundles: dict[str, Path], origin: str
) -> None:
    # As Flower does: the unpacked bundle is put first on a path that holds an installed fedstill already.
    bundle = bundles[origin]
    code = (
        f"import importlib.util, sys\n"
        f"assert importlib.util.find_spec('fedstill').origin == {fedstill.__file__!r}\n"
        f"sys.path.insert(0, {str(bundle)!r})\n"
        "import fedstill.clients.app, fedstill.server.app\n"
        "print(fedstill.__file__, fedstill.server.app.__file__, fedstill.clients.app.__file__, sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=bundle.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [Path(line) for line in done.stdout.split()]
    assert len(found) == 3
    assert all(path.is_relative_to(bundle) for path in found), found


def test_a_bundle_holds_every_module_that_is_installed(bundles: dict[str, Path]) -> None:
    package = bundles["written"] / "fedstill"
    for name in ("server", "clients", "common", "protos"):
        wanted = {path.relative_to(ROOT) for path in (ROOT / name).rglob("*.py")}
        assert wanted <= {path.relative_to(package) for path in package.rglob("*.py")}
    assert (package / "server" / "run" / "summary.schema.json").is_file()
    assert (package / "common" / "devices" / "builtin" / "pi-4.toml").is_file()


def test_the_app_is_that_of_the_checkout() -> None:
    written = tomllib.loads(app_pyproject())
    checkout = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for key in ("name", "version"):
        assert written["project"][key] == checkout["project"][key]
    for key in ("publisher", "components", "config"):
        assert written["tool"]["flwr"]["app"][key] == checkout["tool"]["flwr"]["app"][key]
    assert written["tool"]["flwr"]["app"]["components"] == COMPONENTS


def test_an_older_app_is_replaced_whole(tmp_path: Path) -> None:
    stale = write_app(tmp_path, Config()) / "fedstill" / "stale.py"
    stale.write_text("")
    folder = write_app(tmp_path, Config())
    assert not stale.exists()
    assert (folder / "pyproject.toml").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["app"]


LOOK = """
import sys
sys.path.insert(0, {bundle!r})
from fedstill.common import modules
with modules.confined_to_bundle():
    print(modules.load_reference("mine:student", key="student.model")())
    try:
        modules.load_reference("here:student", key="student.model")
    except modules.ConfigError as error:
        print(error)
"""


def test_a_device_finds_the_runs_modules_in_its_bundle_and_none_beside_it(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    for name in ("mine", "here"):
        (tmp_path / f"{name}.py").write_text("def student():\n    return 'of the device'\n")
    done = subprocess.run(
        [sys.executable, "-P", "-c", LOOK.format(bundle=str(bundles["written"]))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    found = done.stdout.splitlines()
    assert found[0] == "bundled", done.stderr
    assert "a device takes modules of its app and installed entry points only" in found[1]


def test_an_app_without_modules_of_ones_own_names_no_folder_of_them(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    app = tomllib.loads((write_app(tmp_path, Config()) / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert app["fab-include"] == ["fedstill/**/*.py", "fedstill/**/*.toml", "fedstill/**/*.json"]
    assert sorted(path.name for path in (bundles["written"] / "modules").iterdir()) == ["mine.py", "parts.py"]
