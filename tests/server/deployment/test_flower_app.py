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
    written = write_app(folder / "home")
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
    stale = write_app(tmp_path) / "fedstill" / "stale.py"
    stale.write_text("")
    folder = write_app(tmp_path)
    assert not stale.exists()
    assert (folder / "pyproject.toml").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["app"]
